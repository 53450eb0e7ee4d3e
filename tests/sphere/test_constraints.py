import pytest
import torch

from vmflearn.sphere.constraints import check_unit_vectors, unit_vector

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_lengths_may_be_off_by_rounding_and_no_more(dtype: torch.dtype) -> None:
    vector = torch.zeros(3, 4, dtype=dtype)
    vector[:, 1] = 1
    vector[1] *= 1 + 4 * TOLERANCES[dtype]
    vector[2] *= 1 - 4 * TOLERANCES[dtype]
    assert unit_vector.check(vector).tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"rows must be of unit length, got a vector of length .* at index \(1,\)"):
        check_unit_vectors(vector, "rows", row=True)
