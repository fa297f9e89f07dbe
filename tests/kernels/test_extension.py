"""The extension's small operations, on every backend this machine has, against plain torch in float64 or float32."""

import shutil

import pytest
import torch
import torch.nn.functional as F

from potluck.kernels import extension, packed
from potluck.kernels.attention import paged_attention, paged_attention_lse
from potluck.kernels.attention_inputs import HeadNorm, place_qkv, place_qkv_reference
from potluck.kernels.attention_plan import AttentionPlan, Paging, Span, plan_attention
from potluck.kernels.gated import gated
from potluck.kernels.rms_norm import rms_norm
from potluck.kernels.rotary import RotaryTable

needs_extension = pytest.mark.skipif(extension.native is None, reason="Potluck was installed without its C++ extension")
CPU = torch.device("cpu")
# One rounding to bfloat16 of numbers up to a few units; float32 sums in another order.
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_it_is_there_where_a_compiler_is():
    """An extension that fails to build is left out without a word: here is the word."""
    assert extension.native is not None or not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"))


@needs_extension
def test_a_backend_is_taken_by_its_name(any_backend):
    """Which of them this processor lacks is said here alone."""
    try:
        if packed.backend(any_backend) is None:
            pytest.skip(f"this processor has no {any_backend}")
        assert packed.backend() is not None and packed.backend(any_backend) == any_backend
    finally:
        packed.backend()


@needs_extension
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", [(1, 576), (3, 64), (5, 33), (2, 7), (0, 64)])
def test_rms_norm(backend, dtype, shape):
    x_TD, weight_D = random(*shape) * 3, random(shape[1], seed=1)
    wide = x_TD.double()
    wanted = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight_D.double()
    found = rms_norm(x_TD, weight_D, 1e-5, dtype)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@needs_extension
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("width", [16, 64, 1536, 5])
def test_gated(backend, dtype, activation, width):
    x = random(3, 2 * width, dtype=dtype) * 4
    x[0, 0], x[0, 1], x[1, 0] = -200.0, 200.0, 0.0
    gate, up = x.double().chunk(2, -1)
    active = F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")
    wanted, found = active * up, gated(x, activation)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


@needs_extension
@pytest.mark.parametrize("given", CLOSE)
@pytest.mark.parametrize("kept", CLOSE)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(9, 3, 64), (4, 1, 16), (2, 2, 8), (4, 2, 256)])
@pytest.mark.parametrize("normed", [False, True])
def test_place_qkv(backend, given, kept, heads, kv_heads, width, normed):
    rows, slots = 5, torch.tensor([3, 17, 40, 4, 0])
    qkv = random(rows, heads + 2 * kv_heads, width, dtype=given)
    table = RotaryTable([10000 ** (-2 * i / width) for i in range(width // 2)], 1.0, CPU)
    rotary = table.rows(torch.tensor([0, 5, 600, 2, 9]), 601)
    norm = HeadNorm(random(heads + kv_heads, width, seed=3), 1e-6) if normed else None
    pools = [torch.full((3, 16, 2, kv_heads, width), 7.0, dtype=kept) for _ in range(2)]
    found = place_qkv(qkv.clone(), rotary, pools[0], slots, norm)
    wanted = place_qkv_reference(qkv.clone(), rotary, pools[1], slots, norm)
    assert found.dtype == kept
    assert torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=CLOSE[kept])
    assert torch.allclose(pools[0].float(), pools[1].float(), rtol=1e-2, atol=CLOSE[kept])


@needs_extension
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(9, 3, 64), (8, 1, 16), (6, 2, 80), (2, 2, 256), (5, 1, 128)])
@pytest.mark.parametrize("window", [None, 20])
def test_single_rows_attend(backend, dtype, heads, kv_heads, width, window):
    lengths = (1, 16, 17, 90, 250)
    pool = random(64, 16, 2, kv_heads, width, dtype=dtype)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2)).tolist()
    spans, given = [], 0
    for row, length in enumerate(lengths):
        blocks = -(-length // 16)
        spans.append(Span(row, 1, length - 1, order[given : given + blocks]))
        given += blocks
    plan = plan_attention(spans, Paging(16, window, dtype, CPU))
    q_THE = random(len(lengths), heads, width, dtype=dtype, seed=4)
    assert plan.single is not None
    found = paged_attention(q_THE, pool, plan, width**-0.5)
    assert "groups" not in vars(plan)  # nobody asked for them
    wanted, _ = paged_attention_lse(q_THE, pool, AttentionPlan(plan.form, plan.chunks), width**-0.5)
    assert torch.allclose(found.float(), wanted, atol=CLOSE[dtype])


@needs_extension
def test_scores_far_apart_and_threads():
    pool, q_THE = random(64, 16, 2, 2, 64), random(3, 4, 64) * 40
    spans = [Span(row, 1, 299, list(range(20 * row, 20 * row + 20))) for row in range(3)]
    plan = plan_attention(spans, Paging(16, None, torch.float32, CPU))
    alone = paged_attention(q_THE, pool, plan, 1.0)
    wanted, _ = paged_attention_lse(q_THE, pool, plan, 1.0)
    assert torch.allclose(alone, wanted, atol=1e-4)
    try:
        packed.set_threads(3)
        assert all(torch.equal(paged_attention(q_THE, pool, plan, 1.0), alone) for _ in range(20))
    finally:
        packed.set_threads(1)
