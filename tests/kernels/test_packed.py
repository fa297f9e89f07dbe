"""Products with packed weights, on every backend this machine has, against the de-quantised weights in float64."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from potluck.kernels import packed
from potluck.kernels.packed import PackedLinear, PackedMatrix, can_pack, multiply_reference, packed_size
from potluck.models.encodings import PACKED, packed_bytes

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")

GROUPS = ["INT4_G32", "INT4_G128", "INT8_G32", "INT8_G128"]
ENCODINGS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", *GROUPS]
PLAIN = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# Its products with NEON are tested on every processor (see conftest.py).
EMULATES = True
HALVES = {"Q4_K": (0, 4), "Q5_K": (0, 4), "Q6_K": (208, 210)}


def stored(encoding, rows, columns, seed=0):
    """Blocks (rows, bytes) and the float32 weights they mean. The package packs no K-quants: those are random."""
    rng = np.random.default_rng(seed)
    if encoding in GROUPS:
        return grouped(encoding, rows, columns, rng)
    if encoding in PLAIN:
        weights = torch.from_numpy(rng.standard_normal((rows, columns)).astype(np.float32)).to(PLAIN[encoding])
        return weights.view(torch.uint8).view(rows, -1), weights.float()
    kind = GGMLQuantizationType[encoding]
    if encoding in HALVES:
        block, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
        first, end = HALVES[encoding]
        scales = (rng.random((len(blocks), (end - first) // 2)) * 0.02).astype(np.float16)
        blocks[:, first:end] = scales.view(np.uint8)
        blocks = blocks.reshape(rows, -1)
    else:
        blocks = quants.quantize(rng.standard_normal((rows, columns)).astype(np.float32), kind)
    weights = quants.dequantize(blocks, kind)
    return torch.from_numpy(blocks), torch.from_numpy(weights.reshape(rows, columns))


def grouped(encoding, rows, columns, rng):
    """Numbers with a scale and a zero point for every group of columns."""
    bits, group = int(encoding[3]), int(encoding.rpartition("G")[2])
    q = rng.integers(0, 1 << bits, (rows, columns // group, group), dtype=np.uint8)
    scale = (rng.random((rows, columns // group, 1)) * 0.02 + 0.001).astype(np.float16)
    zero = rng.integers(0, 1 << bits, (rows, columns // group, 1)).astype(np.float16)
    weights = scale.astype(np.float32) * (q.astype(np.float32) - zero.astype(np.float32))
    if bits == 4:
        tiles = q.reshape(rows, columns // group, group // 32, 32)
        q = (tiles[..., :16] | tiles[..., 16:] << 4).reshape(rows, columns // group, group // 2)
    blocks = np.concatenate((scale.view(np.uint8), zero.view(np.uint8), q), -1).reshape(rows, -1)
    return torch.from_numpy(blocks), torch.from_numpy(weights.reshape(rows, columns))


def rows_of(count, columns, seed=1):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rows", [1, 15, 16, 40])
def test_every_number_is_kept(encoding, rows):
    blocks, weights = stored(encoding, rows, 512)
    matrix = PackedMatrix.pack(encoding, blocks, 512)
    found = matrix.select(torch.arange(rows))
    if encoding in GROUPS:  # scale x q - scale x zero, rounded twice
        assert torch.allclose(found, weights, rtol=0, atol=2e-6)
    else:
        assert torch.equal(found, weights)
    assert torch.equal(matrix.select(torch.tensor([rows - 1, 0, rows - 1])), found[[-1, 0, -1]])
    assert matrix.nbytes == packed_size(encoding, (rows, 512))
    if encoding in PACKED:
        assert matrix.nbytes == packed_bytes(encoding, (rows, 512))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("rows", "columns", "count"), [(1, 256, 1), (17, 256, 3), (64, 768, 8), (31, 512, 29)])
def test_the_product_is_that_of_the_weights(backend, encoding, rows, columns, count):
    blocks, weights = stored(encoding, rows, columns)
    x_TI = rows_of(count, columns)
    found = PackedLinear([PackedMatrix.pack(encoding, blocks, columns)])(x_TI)
    wanted = multiply_reference(weights, x_TI)
    assert ((found.double() - wanted).abs() <= 1e-6 * (x_TI.abs().double() @ weights.abs().double().T)).all()


# Where a block's numbers stand, and bytes that make the smallest and largest of them.
NUMBERS = {name: slice(4, None) for name in ("Q4_1", "Q5_1", *GROUPS)} | {
    **{name: slice(2, None) for name in ("Q4_0", "Q5_0", "Q8_0")},
    **{"Q4_K": slice(16, None), "Q5_K": slice(16, None), "Q6_K": slice(192)},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
def test_the_smallest_and_largest_numbers_overflow_nowhere(backend, encoding, byte):
    block, size = packed._BLOCKS[encoding]
    blocks = stored(encoding, 16, 512)[0].view(16 * 512 // block, size)
    blocks[:, NUMBERS[encoding]] = byte
    matrix = PackedMatrix.pack(encoding, blocks.view(16, -1), 512)
    weights, x_TI = matrix.select(torch.arange(16)), torch.ones(6, 512)
    x_TI[1::2] = -1.0
    x_TI[2, ::2] = -1.0
    found, wanted = PackedLinear([matrix])(x_TI), multiply_reference(weights, x_TI)
    assert ((found.double() - wanted).abs() <= 1e-6 * (x_TI.abs().double() @ weights.abs().double().T)).all()


@pytest.mark.parametrize("encoding", [*ENCODINGS, *PLAIN])
@pytest.mark.parametrize(
    ("rows", "columns", "count"), [(1, 256, 1), (17, 256, 3), (64, 768, 8), (31, 512, 29), (81, 256, 2)]
)
def test_the_exact_product(backend, encoding, rows, columns, count):
    blocks, weights = stored(encoding, rows, columns)
    x_TI = rows_of(count, columns)
    found = PackedLinear([PackedMatrix.pack(encoding, blocks, columns)], exact=True)(x_TI)
    wanted, sizes = x_TI.double() @ weights.double().T, x_TI.abs().double() @ weights.abs().double().T
    # Weights and activations are rounded to bfloat16, once each, where the processor multiplies that faster.
    most = 1e-6 if encoding in ("F32", "F16") or backend != "avx512" else 2.0**-8 * 1.01
    assert ((found.double() - wanted).abs() <= most * sizes).all()


@pytest.mark.parametrize("encoding", PLAIN)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 3), (33, 7), (40, 33)])
def test_plain_numbers_of_any_width(backend, encoding, rows, columns):
    blocks, weights = stored(encoding, rows, columns)
    matrix, x_TI = PackedMatrix.pack(encoding, blocks, columns), rows_of(14, columns)
    assert torch.equal(matrix.select(torch.arange(rows)), weights)
    wanted = x_TI.double() @ weights.double().T
    assert torch.allclose(PackedLinear([matrix])(x_TI).double(), wanted, atol=0.1 if encoding == "BF16" else 1e-4)


@pytest.mark.parametrize("encoding", [*ENCODINGS, *PLAIN])
def test_an_exact_row_does_not_depend_on_its_company(backend, encoding):
    linear = PackedLinear([PackedMatrix.pack(encoding, stored(encoding, 48, 256)[0], 256)], exact=True)
    x_TI = rows_of(31, 256)
    together = linear(x_TI)
    assert all(torch.equal(linear(x_TI[i : i + 1])[0], together[i]) for i in range(31))
    assert torch.equal(linear(x_TI[3:20]), together[3:20])


def test_columns_in_another_order(backend):
    blocks, weights = stored("INT4_G128", 48, 256)
    order, x_TI = torch.randperm(256, generator=torch.Generator().manual_seed(2)), rows_of(3, 256)
    matrix = PackedMatrix.pack("INT4_G128", blocks, 256)
    found = PackedLinear([matrix], orders=[order])(x_TI)
    assert torch.allclose(found.double(), multiply_reference(weights, x_TI[:, order]), atol=1e-4)
    assert torch.equal(found, PackedLinear([matrix])(x_TI[:, order]))


@pytest.mark.parametrize("columns", [32, 96, 576])
def test_columns_that_are_no_multiple_of_256(backend, columns):
    blocks, weights = stored("Q4_1", 48, columns)
    x_TI = rows_of(5, columns)
    found = PackedLinear([PackedMatrix.pack("Q4_1", blocks, columns)])(x_TI)
    assert torch.allclose(found.double(), multiply_reference(weights, x_TI), atol=1e-4)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_row_does_not_depend_on_its_company(backend, encoding):
    matrix = PackedMatrix.pack(encoding, stored(encoding, 48, 512)[0], 512)
    linear, x_TI = PackedLinear([matrix]), rows_of(31, 512)
    together = linear(x_TI)
    assert all(torch.equal(linear(x_TI[i : i + 1])[0], together[i]) for i in range(31))


def test_threads_change_nothing():
    linear, x_TI = PackedLinear([PackedMatrix.pack("Q4_K", stored("Q4_K", 640, 512)[0], 512)]), rows_of(40, 512)
    alone = linear(x_TI)
    try:
        packed.set_threads(3)
        assert all(torch.equal(linear(x_TI), alone) for _ in range(20))
    finally:
        packed.set_threads(1)


def test_pieces_of_several_formats_with_a_bias():
    pieces, weights = zip(*(stored(encoding, rows, 256) for encoding, rows in (("Q4_K", 20), ("Q6_K", 7))), strict=True)
    bias = torch.randn(27)
    matrices = [PackedMatrix.pack(name, blocks, 256) for name, blocks in zip(("Q4_K", "Q6_K"), pieces, strict=True)]
    x_TI = rows_of(3, 256)
    found = PackedLinear(matrices, bias)(x_TI)
    wanted = multiply_reference(torch.cat(weights), x_TI) + bias
    assert torch.allclose(found.double(), wanted, atol=1e-4)


def test_nothing_and_zeros():
    linear = PackedLinear([PackedMatrix.pack("Q5_0", stored("Q5_0", 16, 64)[0], 64)])
    assert linear(torch.empty(0, 64)).shape == (0, 16)
    assert not linear(torch.zeros(2, 64)).any()


def test_what_cannot_be_packed_is_refused():
    blocks, _ = stored("Q4_0", 4, 64)
    with pytest.raises(ValueError, match="cannot be multiplied as they are"):
        PackedMatrix.pack("Q2_K", blocks, 64)
    with pytest.raises(ValueError, match="take 54 bytes, not 36"):
        PackedMatrix.pack("Q4_0", blocks, 96)
    matrix = PackedMatrix.pack("Q4_0", blocks, 64)
    for wrong in (4, -1):
        with pytest.raises(IndexError, match="beyond the 4"):
            matrix.select(torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match="does not fit"):
        PackedLinear([matrix])(torch.zeros(1, 32))
    assert not can_pack("Q4_K", (4, 576))
    assert not can_pack("INT4_G128", (4, 64))
    assert can_pack("F16", (4, 7))
