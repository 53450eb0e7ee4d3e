import pytest
import torch

from vmflearn import distributed


def test_a_single_process_is_the_identity():
    x = torch.randn(3, 2)
    assert not distributed.is_distributed()
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    for operation in (
        distributed.mean_over_processes,
        distributed.sum_over_processes,
        distributed.broadcast_from_first,
        distributed.log_mean_exp_over_processes,
        distributed.gather_rows,
    ):
        assert torch.equal(operation(x), x)


def test_work_that_may_fail_in_a_single_process():
    def fail():
        raise OverflowError("too much")

    assert distributed.all_or_none(lambda: 3) == 3
    with pytest.raises(OverflowError, match="too much"):
        distributed.all_or_none(fail)
