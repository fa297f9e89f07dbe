import pytest
import torch

from potluck.kernels.linear import Linear


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 3), (97, 64), (960, 576)])
@pytest.mark.parametrize("rows", [1, 2, 8, 33])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_linear(outputs, inputs, rows, bias, dtype, tolerance):
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, inputs).to(dtype), torch.randn(rows, inputs).to(dtype)
    added = torch.randn(outputs).to(dtype) if bias else None
    found = Linear(weight, added)(x)
    wanted = x.double() @ weight.double().T + (added.double() if bias else 0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * inputs**0.5)
