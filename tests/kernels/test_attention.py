import pytest
import torch

from potluck.kernels.attention import paged_attention, paged_attention_lse, write_kv
from potluck.kernels.attention_plan import Paging, Span, plan_attention

CPU = torch.device("cpu")


MIXES = {
    "one": [(0, 1)],
    "decode": [(9, 1), (3, 1), (9, 1)],
    "decode, far apart": [(90, 1), (2, 1), (60, 1), (1, 1), (0, 1), (7, 1)],
    "prompt": [(0, 17)],
    "chunk": [(13, 5)],
    "all": [(0, 5), (20, 1), (7, 4), (0, 1), (31, 1), (40, 9)],
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 1, 4, 16])
@pytest.mark.parametrize(("kv_heads", "group", "width"), [(1, 1, 8), (2, 3, 6), (3, 1, 64)])
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_attention_against_row_by_row(paged, mix, window, kv_heads, group, width, block_size):
    torch.manual_seed(0)
    paging = Paging(block_size, window, torch.float32, CPU)
    spans = paged.spans_of(MIXES[mix], block_size)
    pool = paged.filled(spans, (block_size, kv_heads, width), whole_blocks=True)
    rows = sum(span.count for span in spans)
    # A slice of a wider tensor, as the decoder passes it.
    q = torch.randn(rows, kv_heads * group + 3, width)[:, : kv_heads * group]
    plan = plan_attention(spans, paging)
    wanted, wanted_lse = paged.naive(q, pool, spans, window, 0.3)
    torch.testing.assert_close(paged_attention(q, pool, plan, 0.3).double(), wanted, rtol=1e-5, atol=1e-5)
    out, lse = paged_attention_lse(q, pool, plan, 0.3)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 4])
def test_bfloat16(paged, mix, window):
    torch.manual_seed(0)
    paging = Paging(4, window, torch.bfloat16, CPU)
    spans = paged.spans_of(MIXES[mix], 4)
    pool = paged.filled(spans, (4, 2, 16), torch.bfloat16, whole_blocks=True)
    q = torch.randn(sum(span.count for span in spans), 4, 16).bfloat16()
    found = paged_attention(q, pool, plan_attention(spans, paging), 0.25)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), paged.naive(q, pool, spans, window, 0.25)[0], rtol=2e-2, atol=2e-2)


def test_two_halves_merge_by_their_lse(paged):
    """What sequence-sharded KV relies on: partial results over disjoint slots give the whole."""
    torch.manual_seed(0)
    paging = Paging(4, None, torch.float32, CPU)
    [whole] = paged.spans_of([(15, 1)], 4)
    pool = paged.filled([whole], (4, 1, 8), whole_blocks=True)
    q = torch.randn(1, 2, 8)
    first, second = Span(0, 1, 7, whole.table[:2]), Span(0, 1, 7, whole.table[2:])
    parts = [paged_attention_lse(q, pool, plan_attention([span], paging), 0.3) for span in (first, second)]
    weights = torch.stack([lse for _, lse in parts]).softmax(0)
    merged = sum(weight.unsqueeze(-1) * out for weight, (out, _) in zip(weights, parts, strict=True))
    torch.testing.assert_close(merged, paged_attention(q, pool, plan_attention([whole], paging), 0.3))


def test_lengths_far_apart_are_not_padded_to_the_longest(paged):
    paging = Paging(16, None, torch.float32, CPU)
    plan = plan_attention(paged.spans_of([(1000, 1), (3, 1), (5, 1), (990, 1)], 16), paging)
    assert [(group.size, group.high) for group in plan.groups] == [(2, 1001), (2, 6)]
    assert [group.rows_B.tolist() for group in plan.groups] == [[0, 3], [1, 2]]


def test_a_sliding_layer_gathers_only_its_window(paged):
    paging = Paging(16, 32, torch.float32, CPU)
    plan = plan_attention(paged.spans_of([(1000, 1), (500, 40)], 16), paging)
    assert len(plan.groups[0].blocks) == 3
    assert len(plan.chunks[0].blocks) == 5


def test_write_kv_fills_exactly_its_slots():
    pool = torch.zeros(3, 4, 2, 1, 2)
    write_kv(pool, torch.tensor([5, 0]), torch.arange(8.0).view(2, 2, 1, 2))
    assert pool[1, 1].flatten().tolist() == [0, 1, 2, 3]
    assert pool[0, 0].flatten().tolist() == [4, 5, 6, 7]
    assert pool.count_nonzero() == 7
