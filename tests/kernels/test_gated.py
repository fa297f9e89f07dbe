import pytest
import torch

from potluck.kernels.gated import gated


def silu(x):
    return x / (1 + (-x).exp())


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(("name", "function"), [("silu", silu), ("gelu_tanh", gelu_tanh)])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 96)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_gated(name, function, shape, dtype, tolerance):
    torch.manual_seed(0)
    gate, up = (torch.randn(shape) * 3).to(dtype), torch.randn(shape).to(dtype)
    found = gated(torch.cat((gate, up), -1), name)
    assert found.dtype == dtype and found.shape == shape
    wanted = function(gate.double()) * up.double()
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance / 10)
