import itertools

import torch

from vmflearn.train.input.prefetch import prefetch


def test_on_a_cpu_no_batch_is_asked_for_before_its_step():
    """A loader's batches are those of a whole run: taking them all first would decode it all."""
    asked = []

    def batches():
        for i in itertools.count():
            asked.append(i)
            yield i

    steps = prefetch(batches(), lambda batch: ([torch.tensor(batch)], torch.tensor(batch)), torch.device("cpu"))
    assert asked == []
    assert [int(next(steps)[1]) for _ in range(3)] == [0, 1, 2]
    assert asked == [0, 1, 2]
