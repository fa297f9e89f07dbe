import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels.attention_inputs import HeadNorm, place_qkv_reference
from potluck.kernels.gpu.rotary import place_qkv, rotate
from potluck.kernels.rotary import RotaryTable

SHAPES = [(1, 1, 1, 2), (3, 3, 3, 6), (17, 9, 3, 64), (2, 4, 1, 80), (3, 6, 2, 10)]  # rows, heads, kv heads, width


def tables(rows, width, device):
    """cos and signed sin of positions far apart."""
    table = RotaryTable([10000.0 ** (-2 * i / width) for i in range(width // 2)], 1.0, device)
    return table.rows(torch.randint(0, 4000, (rows,)), 4000)


def naive_turn(x, rotary, norm):
    """In float64, from the definition: (a, b) becomes (a cos - b sin, b cos + a sin), norm before."""
    x, (cos, sin) = x.double(), (table.double() for table in rotary)
    if norm is not None:
        x = x / (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight_NE.double()
    half = x.shape[-1] // 2
    a, b, cos, sin = x[..., :half], x[..., half:], cos[..., :half], sin[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


@pytest.mark.parametrize(("rows", "heads", "kv_heads", "width"), SHAPES)
@pytest.mark.parametrize("normed", [False, True])
def test_rotate_in_place_a_slice_of_wider_rows(rows, heads, kv_heads, width, normed, device):
    wide = torch.randn(rows, heads + kv_heads + 2, width) * 4
    before, x = wide.clone(), wide[:, : heads + kv_heads]
    rotary = tables(rows, width, device)
    norm = HeadNorm(torch.randn(heads + kv_heads, width), 1e-6) if normed else None
    rotate(x, rotary, norm)
    torch.testing.assert_close(x.double(), naive_turn(before[:, :-2], rotary, norm), rtol=2e-6, atol=5e-6)
    assert torch.equal(wide[:, -2:], before[:, -2:])


@pytest.mark.pairwise
@pytest.mark.parametrize(("rows", "heads", "kv_heads", "width"), SHAPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("block_size", [4, 16])
def test_place_qkv(rows, heads, kv_heads, width, normed, block_size, device):
    qkv = torch.randn(rows, heads + 2 * kv_heads, width) * 4
    rotary = tables(rows, width, device)
    norm = HeadNorm(torch.randn(heads + kv_heads, width), 1e-6) if normed else None
    pool = torch.full((9, block_size, 2, kv_heads, width), 7.0)
    slots = torch.randperm(9 * block_size)[:rows]
    q = place_qkv(qkv, rotary, pool, slots, norm)
    turned = naive_turn(qkv[:, : heads + kv_heads], rotary, norm)
    torch.testing.assert_close(q.double(), turned[:, :heads], rtol=2e-6, atol=5e-6)
    kv = pool.view(-1, 2, kv_heads, width)
    torch.testing.assert_close(kv[slots, 0].double(), turned[:, heads:], rtol=2e-6, atol=5e-6)
    assert torch.equal(kv[slots, 1], qkv[:, heads + kv_heads :])
    untouched = torch.ones(len(kv), dtype=torch.bool)
    untouched[slots] = False
    assert (kv[untouched] == 7.0).all()


@pytest.mark.parametrize("qkv_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_pool_is_rounded_once_as_on_the_cpu(qkv_dtype, device):
    qkv, rotary = torch.randn(5, 10, 16).to(qkv_dtype), tables(5, 16, device)
    norm = HeadNorm(torch.randn(8, 16), 1e-6)
    found, wanted = (torch.zeros(4, 4, 2, 2, 16, dtype=torch.bfloat16) for _ in range(2))
    slots = torch.tensor([3, 9, 4, 15, 0])
    q = place_qkv(qkv, rotary, found, slots, norm)
    q_wanted = place_qkv_reference(qkv, rotary, wanted, slots, norm)
    assert q.dtype == torch.bfloat16
    # One unit in bfloat16's last place: float32 sums in another order may round to the neighbour.
    torch.testing.assert_close(q.float(), q_wanted.float(), rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2**-7, atol=1e-6)


def test_rows_that_fill_a_batch_up_are_not_stored(device):
    qkv, rotary = torch.randn(3, 3, 4), tables(3, 4, device)
    pool = torch.zeros(2, 4, 2, 1, 4)
    place_qkv(qkv, rotary, pool, torch.tensor([5, -1, -1]))
    assert torch.equal(pool.view(8, -1).abs().sum(1).nonzero().flatten(), torch.tensor([5]))


def test_wrong_shapes_are_refused(device):
    with pytest.raises(ValueError, match="even width"):
        rotate(torch.ones(1, 2, 3), tables(1, 4, device))
    with pytest.raises(ValueError, match="as many query heads"):
        place_qkv(torch.ones(1, 7, 4), tables(1, 4, device), torch.ones(1, 4, 2, 2, 4), torch.tensor([0]))
