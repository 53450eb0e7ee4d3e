import torch

from vmflearn import distributed


def test_a_single_process_is_the_identity():
    x = torch.randn(3, 2)
    assert not distributed.is_distributed()
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    for operation in (
        distributed.mean_over_processes,
        distributed.log_mean_exp_over_processes,
        distributed.gather_rows,
    ):
        assert torch.equal(operation(x), x)
