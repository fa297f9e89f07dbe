"""Paged KV for the attention tests, and what attention over it is, row by row. Reached through the fixture `paged`."""

import random

import torch

from potluck.kernels.attention_plan import Span

BLOCKS = 200


def spans_of(lengths, block_size):
    """Spans of (position, count), with tables of random block numbers that reach exactly to their end."""
    free, row, spans = list(range(BLOCKS)), 0, []
    random.Random(1).shuffle(free)
    for position, count in lengths:
        table = [free.pop() for _ in range(-(-(position + count) // block_size))]
        spans.append(Span(row, count, position, table))
        row += count
    return spans


def filled(spans, shape, dtype=torch.float32, whole_blocks=False):
    """A pool of noise, NaN in every slot that nobody of `spans` wrote, the last blocks' ends included.

    `shape`: slots of a block, KV heads, width. `whole_blocks`: the ends are noise too, for kernels that read them and
    give them no weight.
    """
    block_size, kv_heads, width = shape
    pool = torch.full((BLOCKS, block_size, 2, kv_heads, width), float("nan"), dtype=dtype)
    for span in spans:
        written = len(span.table) * block_size if whole_blocks else span.position + span.count
        for position in range(written):
            block = span.table[position // block_size]
            pool[block, position % block_size] = torch.randn(2, kv_heads, width).to(dtype)
    return pool


def naive(q, pool, spans, window, scale):
    """Row by row in float64: outputs and lse."""
    out, lse = torch.zeros(q.shape).double(), torch.zeros(q.shape[:2]).double()
    group, block_size = q.shape[1] // pool.shape[3], pool.shape[1]
    for span in spans:
        for i in range(span.count):
            last = span.position + i
            first = 0 if window is None else max(0, last - window + 1)
            kv = torch.stack([pool[span.table[p // block_size], p % block_size] for p in range(first, last + 1)])
            k, v = kv.double().repeat_interleave(group, 2).unbind(1)
            scores = torch.einsum("lhe,he->hl", k, q[span.row + i].double()) * scale
            out[span.row + i] = torch.einsum("hl,lhe->he", scores.softmax(-1), v)
            lse[span.row + i] = scores.logsumexp(-1)
    return out, lse
