import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels.gpu.merge import merge


def naive(out, lse):
    """In float64, by softmax over the parts."""
    weights = (lse.double() - lse.double().logsumexp(0)).exp()
    return (out.double() * weights.unsqueeze(-1)).sum(0), lse.double().logsumexp(0)


@pytest.mark.pairwise
@pytest.mark.parametrize("parts", [1, 2, 3, 9])
@pytest.mark.parametrize(("rows", "heads", "width"), [(1, 1, 1), (3, 9, 6), (17, 2, 80)])
@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
def test_merge(parts, rows, heads, width, offset):
    out, lse = torch.randn(parts, rows, heads, width), torch.randn(parts, rows, heads) * 3 + offset
    merged, merged_lse = merge(out, lse)
    wanted, wanted_lse = naive(out, lse)
    torch.testing.assert_close(merged.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged_lse.double(), wanted_lse, rtol=2e-7, atol=1e-6)


def test_parts_far_apart_and_parts_that_saw_nothing():
    inf = torch.inf
    lse = torch.tensor([[1e3, -inf, -inf, -1e3], [-1e3, -2e3, -inf, -inf], [0.0, -inf, -inf, -1e3]]).unsqueeze(-1)
    out = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 4, 1, 2) * (lse > -inf).unsqueeze(-1)
    merged, merged_lse = merge(out, lse, torch.float16)
    assert merged.dtype == torch.float16
    assert merged[:, 0, 0].tolist() == [1.0, 2.0, 0.0, 2.0]
    torch.testing.assert_close(merged_lse[:, 0], torch.tensor([1e3, -2e3, -inf, -1e3 + 0.6931472]))
