import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from potluck.kernels.gpu.gated import gated

# Half a unit in the last place, a whole one for bfloat16: the interpreter cuts where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def naive(gate_up, activation):
    gate, up = gate_up.double().chunk(2, -1)
    return (F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")) * up


@pytest.mark.pairwise
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 37), (17, 96), (2, 1025)])
def test_gated(rows, width, dtype, activation):
    gate_up = (torch.randn(rows, 2 * width) * 3).to(dtype)
    found = gated(gate_up, activation)
    assert found.dtype == dtype and found.shape == (rows, width)
    torch.testing.assert_close(found.double(), naive(gate_up, activation), rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_large_gates_neither_overflow_nor_turn_into_nan(activation):
    gate_up = torch.tensor([[-1e4, -100.0, 100.0, 1e4, 1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(gated(gate_up, activation).double(), naive(gate_up, activation), rtol=1e-6, atol=1e-30)


def test_rows_of_a_wider_tensor():
    wide = torch.randn(3, 20)
    torch.testing.assert_close(gated(wide[:, :10], "silu").double(), naive(wide[:, :10], "silu"), rtol=2e-6, atol=1e-6)
