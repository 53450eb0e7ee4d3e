import numpy as np
import pytest
import torch

from vmflearn.sphere.arguments import as_tensor
from vmflearn.sphere.rows import dense_rows
from vmflearn.sphere.sparse_rows import sparse_rows


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_only_directions_are_left_of_rows_of_every_power_of_ten(dtype):
    """Squares leave the range of the type long before lengths do, and lose digits before that."""
    from scipy.sparse import csr_array

    smallest, largest = (-300, 307) if dtype == np.float64 else (-37, 37)
    X = (np.array([[3.0, 4.0]]) * 10.0 ** np.arange(smallest, largest)[:, None]).astype(dtype)
    wanted = torch.tensor([[0.6, 0.8]], dtype=torch.float64).expand(len(X), 2)
    for rows, is_zero in (dense_rows(as_tensor(X), torch.device("cpu"), 50), sparse_rows(csr_array(X))):
        assert not is_zero.any()
        torch.testing.assert_close(rows.dense(), wanted, rtol=4 * np.finfo(dtype).eps, atol=0)
