import pytest
import torch

from potluck.kernels.rms_norm import head_norm, rms_norm


def naive(x, weight, eps):
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@pytest.mark.parametrize("width", [1, 7, 64, 577])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_rms_norm(width, rows, dtype, tolerance):
    torch.manual_seed(width)
    x, weight = (torch.randn(rows, width) * 30).to(dtype), torch.randn(width)
    found = rms_norm(x, weight, 1e-5, dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), naive(x, weight, 1e-5), rtol=tolerance, atol=1e-7)


def test_eps_counts_where_the_row_is_tiny():
    x = torch.full((1, 8), 1e-4)
    torch.testing.assert_close(rms_norm(x, torch.ones(8), 1e-2, torch.float32).double(), naive(x, torch.ones(8), 1e-2))


def test_bfloat16_is_rounded_only_once():
    torch.manual_seed(0)
    x, weight = torch.randn(50, 96).bfloat16(), torch.randn(96)
    assert torch.equal(rms_norm(x, weight, 1e-6, x.dtype), naive(x, weight, 1e-6).float().bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_head_norm_has_a_weight_per_head_and_stays_float32(dtype):
    torch.manual_seed(1)
    x, weight = torch.randn(3, 9, 6).to(dtype)[:, :5], torch.randn(5, 6)
    found = head_norm(x, weight, 1e-6)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), naive(x, weight, 1e-6), rtol=1e-5, atol=1e-6)
