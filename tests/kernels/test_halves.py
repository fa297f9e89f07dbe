"""A half of a layer in one call has the bits of its operations called one by one, on every backend this machine has."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from potluck.kernels import packed
from potluck.kernels.attention import paged_attention
from potluck.kernels.attention_inputs import HeadNorm, place_qkv
from potluck.kernels.attention_plan import Paging, plan_attention
from potluck.kernels.gated import gated
from potluck.kernels.halves import DecodeStep, Normed, attention_half, ffn_half
from potluck.kernels.linear import Linear
from potluck.kernels.packed import PackedLinear, PackedMatrix
from potluck.kernels.rms_norm import rms_norm
from potluck.kernels.rotary import RotaryTable

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")

HIDDEN, FFN, EPS, BLOCK = 256, 320, 1e-5, 16
PLAIN = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
FORMATS = [*PLAIN, "Q4_0", "Q4_1", "Q5_1", "Q8_0", "mixed"]
LENGTHS = (90, 1, 33, 16, 17, 250, 5, 64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrix(encoding, rows, columns, seed):
    weights = random(rows, columns, seed=seed) * columns**-0.5
    if encoding in PLAIN:
        return PackedMatrix.pack(encoding, weights.to(PLAIN[encoding]).view(torch.uint8), columns)
    blocks = quants.quantize(weights.numpy().astype(np.float32), GGMLQuantizationType[encoding])
    return PackedMatrix.pack(encoding, torch.from_numpy(blocks), columns)


def product(encoding, shapes, exact=False, bias=False):
    """A product of matrices one below the other; `mixed` has another format for each."""
    encodings = ["Q4_1", "Q8_0", "BF16"] if encoding == "mixed" else [encoding] * 3
    pieces = [matrix(encodings[i], *shape, seed=i) for i, shape in enumerate(shapes)]
    return PackedLinear(pieces, random(sum(rows for rows, _ in shapes), seed=9) if bias else None, exact)


def step_of(paged, rows, window=None, dtype=torch.float32, shape=(2, 64)):
    """Single rows of sequences of different lengths: pool, slots, rotary, plan."""
    spans = paged.spans_of([(length - 1, 1) for length in LENGTHS[:rows]], BLOCK)
    pool = paged.filled(spans, (BLOCK, *shape), dtype)
    slots = torch.tensor([span.table[-1] * BLOCK + span.position % BLOCK for span in spans])
    table = RotaryTable([10000 ** (-2 * i / shape[1]) for i in range(shape[1] // 2)], 1.0, torch.device("cpu"))
    rotary = table.rows(torch.tensor([span.position for span in spans]), max(LENGTHS))
    return pool, slots, rotary, plan_attention(spans, Paging(BLOCK, window, dtype, torch.device("cpu")))


def attention_agrees(step, products, head_norm=None, scale=0.2):
    """Whether both ways give the same bits, in what they return and in the pool."""
    pool, slots, rotary, plan = step
    x_TD, norm = random(len(slots), HIDDEN, seed=5) * 3, Normed(random(HIDDEN, seed=6), EPS)
    width, pools = pool.shape[-1], (pool, pool.clone())
    half = attention_half(norm, products, head_norm, pools[0], scale)
    found = half(x_TD, DecodeStep(slots, rotary, plan))
    qkv_TNE = products[0](rms_norm(x_TD, *norm, torch.float32)).view(len(slots), -1, width)
    q_THE = place_qkv(qkv_TNE, rotary, pools[1], slots, head_norm)
    wanted = products[1](paged_attention(q_THE, pools[1], plan, scale).view(len(slots), -1))
    assert wanted.isfinite().all() and wanted.abs().min() > 0
    return torch.equal(found, wanted) and torch.equal(pools[0].nan_to_num(), pools[1].nan_to_num())


def of_heads(encoding, heads=4, kv_heads=2, width=64, **options):
    """The products of attention with so many heads."""
    shapes = [(rows * width, HIDDEN) for rows in (heads, kv_heads, kv_heads)]
    return product(encoding, shapes, **options), product(encoding, [(HIDDEN, heads * width)], **options)


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_attention(backend, paged, encoding, exact, rows):
    assert attention_agrees(step_of(paged, rows), of_heads(encoding, exact=exact))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_what_families_have(backend, paged, dtype, window, normed, bias):
    norm = HeadNorm(random(6, 64, seed=3), 1e-6) if normed else None
    assert attention_agrees(step_of(paged, 5, window, dtype), of_heads("Q4_1", bias=bias), norm)


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(8, 1, 32), (3, 3, 64), (2, 1, 256), (4, 2, 80)])
def test_shapes_of_heads(backend, paged, heads, kv_heads, width):
    step = step_of(paged, 3, shape=(kv_heads, width))
    assert attention_agrees(step, of_heads("Q8_0", heads, kv_heads, width))


def ffn_agrees(rows, products, activation, step):
    x_TD, norm = random(rows, HIDDEN, seed=5) * 3, Normed(random(HIDDEN, seed=6), EPS)
    found = ffn_half(norm, products, activation)(x_TD, step)
    wanted = products[1](gated(products[0](rms_norm(x_TD, *norm, torch.float32)), activation))
    assert wanted.isfinite().all() and wanted.abs().min() > 0
    return torch.equal(found, wanted)


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_ffn(backend, paged, encoding, activation, exact, rows):
    step = DecodeStep(*step_of(paged, rows)[1:])
    products = product(encoding, [(FFN, HIDDEN)] * 2, exact), product(encoding, [(HIDDEN, FFN)], exact, bias=True)
    assert ffn_agrees(rows, products, activation, step)


def test_threads_and_steps_of_other_sizes(paged):
    """What is kept between operations was another step's, larger or smaller."""
    try:
        packed.set_threads(3)
        for rows in (8, 1, 3, 8):
            assert attention_agrees(step_of(paged, rows), of_heads("Q4_0"))
            products = product("Q4_0", [(FFN, HIDDEN)] * 2), product("Q4_0", [(HIDDEN, FFN)])
            assert ffn_agrees(rows, products, "silu", DecodeStep(*step_of(paged, rows)[1:]))
    finally:
        packed.set_threads(1)


def test_what_there_is_no_code_for():
    """Operations are called one by one then."""
    norm, pool = Normed(random(HIDDEN), EPS), torch.zeros(4, BLOCK, 2, 2, 64)
    qkv, output = of_heads("F32")
    assert attention_half(norm, (qkv, output), None, pool, 1.0) is not None
    order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(1))
    ordered = PackedLinear([matrix("F32", HIDDEN, HIDDEN, 0)], orders=[order])
    rows = Linear(random(HIDDEN, HIDDEN))
    odd = of_heads("F32", width=48)
    for products, kept in (
        *(((qkv, other), pool) for other in (ordered, rows, odd[1])),
        (odd, torch.zeros(4, BLOCK, 2, 2, 48)),
        ((qkv, output), pool.half()),
        ((qkv, output), pool.transpose(1, 2).contiguous().transpose(1, 2)),
    ):
        assert attention_half(norm, products, None, kept, 1.0) is None
    half = Normed(norm.weight_D.bfloat16(), EPS)
    assert attention_half(half, (qkv, output), None, pool, 1.0) is None
    gate_up, down = product("F32", [(FFN, HIDDEN)] * 2), product("F32", [(HIDDEN, FFN)])
    assert ffn_half(norm, (gate_up, down), "silu") is not None
    for products in ((gate_up, rows), (rows, down), (gate_up, product("F32", [(HIDDEN, FFN // 2)])), (ordered, down)):
        assert ffn_half(norm, products, "silu") is None


def test_prompts_are_no_decode_steps(paged):
    pool, slots, rotary, _ = step_of(paged, 2)
    plan = plan_attention(paged.spans_of([(5, 1), (0, 3)], BLOCK), Paging(BLOCK, None, pool.dtype, pool.device))
    with pytest.raises(ValueError, match="its sequence's only one"):
        DecodeStep(slots, rotary, plan)
