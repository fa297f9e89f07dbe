import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels.attention_plan import Paging, Span
from potluck.kernels.gpu.attention import paged_attention
from potluck.kernels.gpu.attention_plan import AttentionPlan, Tiles, plan_attention

MIXES = {
    "decode": [(9, 1), (0, 1), (70, 1)],
    "prompt": [(0, 17)],
    "chunk": [(13, 5)],
    # With a window of 7 some rows of the long chunk's tile see nothing of its first 64 slots, others nothing after.
    "all": [(0, 5), (20, 1), (7, 66), (0, 1), (31, 1)],
}


@pytest.mark.pairwise
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(1, 1, 8), (9, 3, 6), (4, 2, 80), (5, 1, 64)])
@pytest.mark.parametrize(("block_size", "splits"), [(16, 1), (4, 3)])
def test_attention_against_row_by_row(paged, mix, window, heads, kv_heads, width, block_size, splits, device):
    spans = paged.spans_of(MIXES[mix], block_size)
    pool = paged.filled(spans, (block_size, kv_heads, width))
    rows = sum(span.count for span in spans)
    # A slice of a wider tensor, as the decoder passes it.
    q = torch.randn(rows, heads + 3, width)[:, :heads]
    plan = plan_attention(spans, Paging(block_size, window, torch.float32, device), heads // kv_heads)
    wanted, wanted_lse = paged.naive(q, pool, spans, window, 0.3)
    out, lse = paged_attention(q, pool, plan, 0.3, splits)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=5e-6)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("splits", [1, 2, None])
def test_bfloat16(paged, splits, device):
    spans = paged.spans_of(MIXES["all"], 16)
    pool = paged.filled(spans, (16, 2, 64), torch.bfloat16)
    q = torch.randn(74, 6, 64).bfloat16()
    plan = plan_attention(spans, Paging(16, None, torch.bfloat16, device), 3)
    out, lse = paged_attention(q, pool, plan, 0.125, splits, torch.bfloat16)
    wanted, wanted_lse = paged.naive(q, pool, spans, None, 0.125)
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    # The result and, on a GPU, the weights are rounded to bfloat16: 2^-8 of values up to 4, half of it typically.
    torch.testing.assert_close(out.double(), wanted, rtol=2**-6, atol=4e-3)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e3, -1e3])
@pytest.mark.parametrize("splits", [1, 3])
def test_scores_of_a_thousand_neither_overflow_nor_lose_the_lse(paged, size, splits, device):
    spans = paged.spans_of([(30, 1), (90, 1)], 4)
    pool = paged.filled(spans, (4, 1, 16))
    pool[:, :, 0] = 0.25 + torch.randn(paged.BLOCKS, 4, 1, 16) * 1e-4
    q = torch.full((2, 2, 16), size / 4.0)
    plan = plan_attention(spans, Paging(4, None, torch.float32, device), 2)
    wanted, wanted_lse = paged.naive(q, pool, spans, None, 1.0)
    assert wanted_lse.abs().min() > 990
    out, lse = paged_attention(q, pool, plan, 1.0, splits)
    # A score of 1000 has steps of 6e-5 in float32, and so have the logarithms of its weights.
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=1e-3)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=3e-7, atol=0)


@pytest.mark.parametrize("splits", [1, 4])
def test_rows_that_see_nothing_are_zero_with_an_lse_of_minus_infinity(paged, splits, device):
    spans = paged.spans_of([(2, 1), (5, 1)], 4)
    pool, q = paged.filled(spans, (4, 1, 8)), torch.randn(3, 2, 8)
    numbers = {"dtype": torch.int32, "device": device}
    tables = torch.tensor([[*spans[0].table, 0], spans[1].table, [0, 0]], **numbers)
    tiles = Tiles(torch.tensor([[0, 1, 0], [1, 1, 1], [2, 1, 2]], **numbers), 1)
    plan = AttentionPlan(torch.tensor([0, 0, 0], **numbers), torch.tensor([3, 6, 0], **numbers), tables, tiles, None, 6)
    out, lse = paged_attention(q, pool, plan, 1.0, splits)
    wanted, wanted_lse = paged.naive(q[:2], pool, spans, None, 1.0)
    torch.testing.assert_close(out[:2].double(), wanted, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(lse[:2].double(), wanted_lse, rtol=2e-6, atol=2e-6)
    assert (out[2] == 0).all() and (lse[2] == -torch.inf).all()


def test_queries_that_do_not_fit_the_pool_are_refused(device):
    plan = plan_attention([Span(0, 1, 0, [0])], Paging(4, None, torch.float32, device), 1)
    with pytest.raises(ValueError, match="do not lie"):
        paged_attention(torch.ones(1, 3, 8), torch.ones(1, 4, 2, 2, 8), plan, 1.0)


def test_plan_cuts_chunks_into_tiles_and_knows_what_rows_see(device):
    plan = plan_attention([Span(0, 1, 9, [5, 6, 7]), Span(1, 5, 2, [8, 9])], Paging(4, 4, torch.bfloat16, device), 32)
    assert plan.single.tiles_A3.tolist() == [[0, 1, 0]]
    assert plan.chunks.tiles_A3.tolist() == [[1, 2, 1], [3, 2, 1], [5, 1, 1]]
    assert plan.low_T.tolist() == [6, 0, 0, 1, 2, 3] and plan.high_T.tolist() == [10, 3, 4, 5, 6, 7]
    assert plan.tables_BM.tolist() == [[5, 6, 7], [8, 9, 0]] and plan.longest == 4
