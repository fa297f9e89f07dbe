import random

import pytest
import torch

from potluck.kernels.attention import paged_attention, paged_attention_lse, write_kv
from potluck.kernels.attention_plan import Paging, Span, plan_attention

CPU = torch.device("cpu")


def filled(spans, paging, kv_heads, width, blocks=200):
    """A pool of noise, NaN where nobody of `spans` wrote: another's KV must never be read."""
    pool = torch.randn(blocks, paging.block_size, 2, kv_heads, width).to(paging.dtype)
    used = {block for span in spans for block in span.table}
    for block in set(range(blocks)) - used:
        pool[block] = float("nan")
    return pool


def spans_of(lengths, block_size):
    """Spans of (position, count), with tables of random block numbers that reach exactly to their end."""
    free, row, spans = list(range(200)), 0, []
    random.Random(1).shuffle(free)
    for position, count in lengths:
        table = [free.pop() for _ in range(-(-(position + count) // block_size))]
        spans.append(Span(row, count, position, table))
        row += count
    return spans


def naive(q, pool, spans, paging, scale):
    """Row by row, head by head, in float64: outputs and lse."""
    out, lse = torch.zeros(q.shape).double(), torch.zeros(q.shape[:2]).double()
    group = q.shape[1] // pool.shape[3]
    for span in spans:
        for i in range(span.count):
            last = span.position + i
            first = 0 if paging.window is None else max(0, last - paging.window + 1)
            places = [(span.table[p // paging.block_size], p % paging.block_size) for p in range(first, last + 1)]
            kv = torch.stack([pool[block, slot] for block, slot in places]).double()
            for head in range(q.shape[1]):
                scores = kv[:, 0, head // group] @ q[span.row + i, head].double() * scale
                out[span.row + i, head] = scores.softmax(0) @ kv[:, 1, head // group]
                lse[span.row + i, head] = scores.logsumexp(0)
    return out, lse


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
def test_attention_against_row_by_row(mix, window, kv_heads, group, width, block_size):
    torch.manual_seed(0)
    paging = Paging(block_size, window, torch.float32, CPU)
    spans = spans_of(MIXES[mix], block_size)
    pool = filled(spans, paging, kv_heads, width)
    rows = sum(span.count for span in spans)
    # A slice of a wider tensor, as the decoder passes it.
    q = torch.randn(rows, kv_heads * group + 3, width)[:, : kv_heads * group]
    plan = plan_attention(spans, paging)
    wanted, wanted_lse = naive(q, pool, spans, paging, 0.3)
    torch.testing.assert_close(paged_attention(q, pool, plan, 0.3).double(), wanted, rtol=1e-5, atol=1e-5)
    out, lse = paged_attention_lse(q, pool, plan, 0.3)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("window", [None, 4])
def test_bfloat16(mix, window):
    torch.manual_seed(0)
    paging = Paging(4, window, torch.bfloat16, CPU)
    spans = spans_of(MIXES[mix], 4)
    pool = filled(spans, paging, 2, 16)
    q = torch.randn(sum(span.count for span in spans), 4, 16).bfloat16()
    found = paged_attention(q, pool, plan_attention(spans, paging), 0.25)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), naive(q, pool, spans, paging, 0.25)[0], rtol=2e-2, atol=2e-2)


def test_two_halves_merge_by_their_lse():
    """What sequence-sharded KV relies on: partial results over disjoint slots give the whole."""
    torch.manual_seed(0)
    paging = Paging(4, None, torch.float32, CPU)
    [whole] = spans_of([(15, 1)], 4)
    pool = filled([whole], paging, 1, 8)
    q = torch.randn(1, 2, 8)
    first, second = Span(0, 1, 7, whole.table[:2]), Span(0, 1, 7, whole.table[2:])
    parts = [paged_attention_lse(q, pool, plan_attention([span], paging), 0.3) for span in (first, second)]
    weights = torch.stack([lse for _, lse in parts]).softmax(0)
    merged = sum(weight.unsqueeze(-1) * out for weight, (out, _) in zip(weights, parts, strict=True))
    torch.testing.assert_close(merged, paged_attention(q, pool, plan_attention([whole], paging), 0.3))


def test_lengths_far_apart_are_not_padded_to_the_longest():
    paging = Paging(16, None, torch.float32, CPU)
    plan = plan_attention(spans_of([(1000, 1), (3, 1), (5, 1), (990, 1)], 16), paging)
    assert [(group.size, group.high) for group in plan.groups] == [(2, 1001), (2, 6)]
    assert [group.rows_B.tolist() for group in plan.groups] == [[0, 3], [1, 2]]


def test_a_sliding_layer_gathers_only_its_window():
    paging = Paging(16, 32, torch.float32, CPU)
    plan = plan_attention(spans_of([(1000, 1), (500, 40)], 16), paging)
    assert len(plan.groups[0].blocks) == 3
    assert len(plan.chunks[0].blocks) == 5


def test_write_kv_fills_exactly_its_slots():
    pool = torch.zeros(3, 4, 2, 1, 2)
    write_kv(pool, torch.tensor([5, 0]), torch.arange(8.0).view(2, 2, 1, 2))
    assert pool[1, 1].flatten().tolist() == [0, 1, 2, 3]
    assert pool[0, 0].flatten().tolist() == [4, 5, 6, 7]
    assert pool.count_nonzero() == 7
