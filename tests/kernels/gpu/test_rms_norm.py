import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels.gpu.rms_norm import add_rms_norm, rms_norm

# Half a unit in the last place, a whole one for bfloat16: the interpreter cuts where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def naive(x, weight, eps):
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@pytest.mark.pairwise
@pytest.mark.parametrize("width", [1, 7, 64, 577])
@pytest.mark.parametrize("rows", [1, 3, 17])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rms_norm(rows, width, dtype):
    x, weight = torch.randn(rows, width) * 30, torch.randn(width)
    found = rms_norm(x, weight, 1e-5, dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), naive(x, weight, 1e-5), rtol=TOLERANCE[dtype], atol=1e-7)


@pytest.mark.parametrize("added_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 96), (17, 33)])
def test_the_sum_stays_in_the_residual_stream(rows, width, added_dtype):
    x, added, weight = torch.randn(rows, width) * 5, torch.randn(rows, width).to(added_dtype), torch.randn(width)
    wanted = x + added.float()
    found = add_rms_norm(x, added, weight, 1e-6, torch.float32)
    assert torch.equal(x, wanted)
    torch.testing.assert_close(found.double(), naive(wanted, weight, 1e-6), rtol=2e-6, atol=1e-7)


def test_eps_counts_where_the_row_is_tiny_and_squares_of_large_rows_do_not_overflow():
    for size in (1e-4, 1e15):
        x = torch.full((2, 9), size)
        found = rms_norm(x, torch.ones(9), 1e-2, torch.float32)
        torch.testing.assert_close(found.double(), naive(x, torch.ones(9), 1e-2), rtol=2e-6, atol=0)


def test_no_rows_are_no_work_and_wrong_operands_are_refused():
    weight = torch.ones(4)
    assert rms_norm(torch.empty(0, 4), weight, 1e-6, torch.bfloat16).shape == (0, 4)
    with pytest.raises(ValueError, match="float32"):
        rms_norm(torch.ones(2, 4).bfloat16(), weight, 1e-6, torch.bfloat16)
    with pytest.raises(ValueError, match="contiguous"):
        rms_norm(torch.ones(2, 8)[:, :4], weight, 1e-6, torch.bfloat16)
    with pytest.raises(ValueError, match="cannot be added"):
        add_rms_norm(torch.ones(2, 4), torch.ones(1, 4), weight, 1e-6, torch.bfloat16)
