import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels.gpu.grouped import pack, unpack
from potluck.kernels.gpu.launch import choose_splits
from potluck.kernels.gpu.quantized import multiply

# Of the largest output: float32 sums 300 products; bfloat16 rounds weights and inputs of the tiles to 8 bits.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def matrix(outputs, inputs, group, bits):
    """A matrix of random numbers, its weights about one in size, and those weights in float64."""
    numbers = torch.randint(0, 2**bits, (outputs, inputs), dtype=torch.uint8)
    scale = (torch.rand(outputs, inputs // group) + 0.5) / 2 ** (bits - 1)
    minimum = torch.randn(outputs, inputs // group) - 1
    weights = numbers.double().view(outputs, -1, group) * scale.half().double().unsqueeze(-1)
    weights = (weights + minimum.half().double().unsqueeze(-1)).view(outputs, inputs)
    return pack(numbers, scale, minimum, bits), weights


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [16, 32, 64, 128])
def test_packing_keeps_every_number(bits, group):
    packed, weights = matrix(3, 2 * group, group, bits)
    assert (packed.outputs, packed.inputs) == (3, 2 * group)
    assert packed.nbytes == 3 * 2 * (group * bits // 8 + 4)
    torch.testing.assert_close(unpack(packed).double(), weights, rtol=1e-6, atol=1e-6)


@pytest.mark.pairwise
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 2, 17])
@pytest.mark.parametrize(
    ("outputs", "inputs", "group"), [(1, 32, 32), (37, 288, 32), (19, 192, 64), (70, 384, 128), (9, 80, 16)]
)
def test_multiply(rows, outputs, inputs, group, dtype, bits):
    packed, weights = matrix(outputs, inputs, group, bits)
    x = torch.randn(rows, inputs).to(dtype)
    wanted = x.double() @ weights.T
    found = multiply(x, packed)
    assert found.dtype == dtype
    size = wanted.abs().max().item()
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=size * TOLERANCE[dtype])


@pytest.mark.parametrize("splits", [1, 2, 3, 9, 40])
@pytest.mark.parametrize("rows", [1, 5])
def test_pieces_add_up(rows, splits):
    packed, weights = matrix(33, 288, 32, 4)
    x = torch.randn(rows, 288)
    wanted = x.double() @ weights.T
    found = multiply(x, packed, splits)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=3e-6 * wanted.abs().max().item())


@pytest.mark.parametrize("rows", [16, 130])
def test_rows_around_the_tiles_ends(rows):
    packed, weights = matrix(65, 64, 32, 4)
    x = torch.randn(rows, 64)
    torch.testing.assert_close(multiply(x, packed).double(), x.double() @ weights.T, rtol=0, atol=1e-4)


def test_rows_of_a_wider_tensor_and_large_activations():
    packed, weights = matrix(5, 64, 32, 4)
    x = (torch.randn(3, 70) * 1e6)[:, :64]
    torch.testing.assert_close(multiply(x, packed).double(), x.double() @ weights.T, rtol=0, atol=200.0)


def test_what_cannot_be_packed_or_multiplied_is_refused():
    numbers, scale = torch.zeros(2, 64, dtype=torch.uint8), torch.ones(2, 2)
    for wrong in ((numbers, scale, scale, 5), (numbers, torch.ones(2, 8), torch.ones(2, 8), 4)):
        with pytest.raises(ValueError, match="know 4 or 8 bits"):
            pack(*wrong)
    with pytest.raises(ValueError, match="minima"):
        pack(numbers, scale, torch.ones(1, 2), 4)
    with pytest.raises(ValueError, match="four bits"):
        pack(numbers + 16, scale, scale, 4)
    with pytest.raises(ValueError, match="finite"):
        pack(numbers, scale * 1e5, scale, 4)
    with pytest.raises(ValueError, match="by"):
        multiply(torch.ones(1, 32), pack(numbers, scale, scale, 4))


def test_splits_fill_the_processors_but_leave_pieces_worth_a_program():
    assert choose_splits(programs=1000, length=4096, least=512, count=80) == 1
    assert choose_splits(programs=36, length=4096, least=512, count=80) == 5
    assert choose_splits(programs=1, length=4096, least=512, count=80) == 8
    assert choose_splits(programs=1, length=100, least=512, count=80) == 1
    assert choose_splits(programs=1, length=10**6, least=256, count=132) == 128
