import torch

from vmflearn.train.cost import matrix_rate as peak


def test_the_rate_is_that_of_two_operations_a_term_in_the_quickest_round(monkeypatch):
    seconds = iter([9.0, 0.05, 0.02, 0.04])  # the first wakes the device
    monkeypatch.setattr(peak, "_products", lambda *arguments: next(seconds))
    rate = peak.matrix_rate(torch.device("cpu"), "float32", seconds=0.1)
    assert rate == 2 * peak.SIDES["cpu"] ** 3 / 0.02
