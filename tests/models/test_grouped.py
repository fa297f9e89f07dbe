"""Matrices of GPTQ and AWQ: what is decoded, and what the blocks hold, is the float formula exactly."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.decode import decode, stored_rows
from potluck.models.encodings import PACKED, encoded_bytes, packed_bytes
from potluck.models.grouped import decode_grouped, grouped_blocks
from potluck.models.grouped_format import grouped_format
from potluck.models.roles import Role, TensorKey

KEY = TensorKey(Role.DOWN, 0)
BLOCKS = {"INT4_G32": (4, 32), "INT4_G128": (4, 128), "INT8_G32": (8, 32), "INT8_G128": (8, 128)}


def entry_of(encoding, shape, **changes):
    return TensorEntry(KEY, encoding, shape, encoded_bytes(encoding, shape), **changes)


def blob_of(packed):
    return b"".join(tensor.numpy().tobytes() for tensor in packed.tensors.values())


@pytest.fixture
def stored(grouped_models):
    """stored(encoding, shape, **how) -> entry, blob and exact weights of a random matrix."""

    def make(encoding, shape, seed=0, **how):
        rng = np.random.default_rng(seed)
        grouped = grouped_format(encoding)
        weight_OI = rng.normal(0, 1, shape).astype(np.float32)
        packed = grouped_models.pack(
            grouped.method, weight_OI, grouped.group, rng, grouped.bits, less_one=grouped.less_one, **how
        )
        return entry_of(encoding, shape), blob_of(packed), packed.weight_OI

    return make


def numbers_of(blocks_OB, encoding):
    """Dequantise blocks, number by number as the format says: float32 (O, I)."""
    bits, size = BLOCKS[encoding]
    a_block = 4 + size * bits // 8
    rows = []
    for row in blocks_OB:
        weights = []
        for block in row.reshape(-1, a_block):
            d, z = (np.float32(half) for half in block[:4].view("<f2"))
            for column in range(size):
                if bits == 8:
                    q = block[4 + column]
                else:
                    octet = block[4 + column // 32 * 16 + column % 16]
                    q = octet >> 4 if column % 32 >= 16 else octet & 15
                weights.append(d * (np.float32(q) - z))
        rows.append(weights)
    return np.array(rows, np.float32)


def assert_blocks(entry, blob, exact_OI, encoding, ordered):
    found, blocks_OB, order_I = grouped_blocks(entry, blob)
    assert found == encoding
    assert blocks_OB.dtype == np.uint8
    assert blocks_OB.shape == (entry.shape[0], entry.shape[1] // 32 * PACKED[encoding])
    assert (order_I is not None) == ordered
    sorted_OI = exact_OI if order_I is None else exact_OI[:, order_I]
    np.testing.assert_array_equal(numbers_of(blocks_OB, encoding), sorted_OI)


CASES = [
    ("GPTQ4_32", (16, 96), "INT4_G32"),
    ("GPTQ4_64", (8, 128), "INT4_G32"),
    ("GPTQ4_96", (8, 192), "INT4_G32"),
    ("GPTQ4_128", (16, 256), "INT4_G128"),
    ("GPTQ4_256", (8, 512), "INT4_G128"),
    ("GPTQ4v2_32", (8, 64), "INT4_G32"),
    ("GPTQ4v2_128", (8, 128), "INT4_G128"),
    ("GPTQ8_32", (4, 64), "INT8_G32"),
    ("GPTQ8_128", (12, 256), "INT8_G128"),
    ("GPTQ8v2_64", (4, 128), "INT8_G32"),
    ("AWQ4_32", (16, 64), "INT4_G32"),
    ("AWQ4_64", (8, 128), "INT4_G32"),
    ("AWQ4_128", (24, 256), "INT4_G128"),
]


@pytest.mark.parametrize(("encoding", "shape", "canonical"), CASES)
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("act_order", [False, True])
def test_decoded_and_in_blocks(stored, encoding, shape, canonical, sym, act_order):
    act_order = act_order and encoding.startswith("GPTQ")
    entry, blob, exact_OI = stored(encoding, shape, sym=sym, act_order=act_order)
    decoded = decode(entry, memoryview(blob))
    np.testing.assert_array_equal(decoded.numpy(), exact_OI)
    assert decoded.dtype is torch.float32
    assert_blocks(
        entry, blob, exact_OI, canonical, ordered=act_order and entry.shape[1] > grouped_format(encoding).group
    )


@given(
    st.sampled_from(["GPTQ4", "GPTQ4v2", "GPTQ8", "GPTQ8v2", "AWQ4"]),
    st.sampled_from([1, 7, 8, 16, 32, 40, 64, 128, 160]),
    st.tuples(st.integers(1, 3), st.integers(1, 20)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trips(stored, kind, group, eights, sym, act_order, seed):
    """Every size of group is decoded, smaller last groups included; those that fit become blocks."""
    shape = (8 * eights[0], 8 * eights[1])
    entry, blob, exact_OI = stored(
        f"{kind}_{group}", shape, seed, sym=sym, act_order=act_order and kind.startswith("GPTQ")
    )
    np.testing.assert_array_equal(decode_grouped(entry, blob), exact_OI)
    canonical = grouped_format(entry.encoding).kept(shape)
    assert (canonical is not None) == (group % 32 == 0 and shape[1] % group == 0)
    if canonical:
        found, blocks_OB, order_I = grouped_blocks(entry, blob)
        order_I = np.arange(shape[1]) if order_I is None else order_I
        np.testing.assert_array_equal(numbers_of(blocks_OB, found), exact_OI[:, order_I])
    else:
        with pytest.raises(CheckpointError, match="cannot be multiplied as stored"):
            grouped_blocks(entry, blob)


def words(*values):
    return np.array(values, dtype="<u4").tobytes()


def ones(count):
    return np.ones(count, dtype="<f2").tobytes()


def test_order_of_nibbles():
    """By hand, as published: GPTQ's first input is lowest; AWQ's outputs 0 to 7 make the word 0x75316420."""
    gptq = words(*[0x76543210] * 8) + words(0) + ones(8) + words(*[0] * 8)
    decoded = decode_grouped(entry_of("GPTQ4v2_8", (8, 8)), gptq)
    np.testing.assert_array_equal(decoded, np.tile(np.arange(8), (8, 1)))
    awq = words(*[0x75316420] * 8) + words(0) + ones(8)
    decoded = decode_grouped(entry_of("AWQ4_8", (8, 8)), awq)
    np.testing.assert_array_equal(decoded, np.tile(np.arange(8), (8, 1)).T)


@pytest.mark.parametrize(
    ("encoding", "stored_zero", "zero"),
    [
        *(("GPTQ4_8", 7, 8), ("GPTQ4_8", 15, 0), ("GPTQ4_8", 0, 1), ("GPTQ4v2_8", 7, 7), ("GPTQ4v2_8", 15, 15)),
        *(("GPTQ8_8", 127, 128), ("GPTQ8_8", 255, 0), ("GPTQ8v2_8", 255, 255), ("AWQ4_8", 15, 15)),
    ],
)
def test_conventions_of_zero_points(encoding, stored_zero, zero):
    """The classic format stores zero points minus one, and 0 wraps around."""
    grouped = grouped_format(encoding)
    qweight, qzeros, *_ = grouped.pieces((8, 8))
    word = sum(stored_zero << place for place in range(0, 32, grouped.bits))
    blob = bytes(qweight.nbytes) + words(word) * (qzeros.nbytes // 4) + ones(8)
    blob += bytes(entry_of(encoding, (8, 8)).nbytes - len(blob))
    np.testing.assert_array_equal(decode_grouped(entry_of(encoding, (8, 8)), blob), np.full((8, 8), -zero))


def test_groups_that_are_not_full_are_only_decoded(stored):
    entry, blob, _ = stored("GPTQ4_32", (8, 64))
    g_idx = np.array([0] * 33 + [1] * 31, "<i4")
    blob = blob[: -g_idx.nbytes] + g_idx.tobytes()
    assert decode_grouped(entry, blob).shape == (8, 64)
    with pytest.raises(CheckpointError, match="cannot be multiplied as stored"):
        grouped_blocks(entry, blob)


def test_order_is_stable(stored):
    entry, blob, _ = stored("GPTQ4_32", (8, 64))
    g_idx = np.array([1, 0] * 32, "<i4")
    _, _, order_I = grouped_blocks(entry, blob[: -g_idx.nbytes] + g_idx.tobytes())
    assert order_I.dtype == np.int64
    assert order_I.tolist() == [*range(1, 64, 2), *range(0, 64, 2)]


def replaced(blob, at, data):
    """The blob with other bytes from `at` on, counted from the end if negative."""
    at %= len(blob)
    return blob[:at] + data + blob[at + len(data) :]


@pytest.mark.parametrize("read", [decode, grouped_blocks])
def test_damage_is_refused(stored, read):
    entry, blob, _ = stored("GPTQ4_32", (8, 64))
    start = entry.nbytes - 64 * 4 - 2 * 8 * 2
    for blob_too, message in [
        (blob[:-1], "bytes, GPTQ4_32 of its shape takes"),
        (blob + b"x", "bytes, GPTQ4_32 of its shape takes"),
        (b"", "0 bytes"),
        (replaced(blob, start, b"\x00\x7c"), "a scale is not finite; download it again"),
        (replaced(blob, start, b"\x01\x7e"), "a scale is not finite; download it again"),
        (replaced(blob, -4, b"\x02\0\0\0"), "g_idx names a group beyond the 2 there are"),
        (replaced(blob, -4, b"\xff\xff\xff\xff"), "g_idx names a group beyond the 2 there are"),
    ]:
        with pytest.raises(CheckpointError, match=message) as caught:
            read(entry, blob_too)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (8,), (8, 8, 8), (8, 9), (9, 8), (0, 8), (-8, 8), (8, 8 << 60)])
def test_shapes_that_no_blob_has(shape):
    entry = TensorEntry(KEY, "GPTQ4_32", shape, 64)
    for read in (decode, grouped_blocks):
        with pytest.raises(CheckpointError, match=r"tensor 0\.down"):
            read(entry, bytes(64))


@pytest.mark.parametrize(
    "encoding",
    [
        *("GPTQ4", "GPTQ4_", "GPTQ4_0", "GPTQ4_-1", "GPTQ4_032", "GPTQ3_32", "GPTQ4v3_32", "AWQ8_32", "AWQ4v2_32"),
        *("GPTQ4_32\n", "GPTQ4_\u0663\u0662", "gptq4_32", "GPTQ4_" + "9" * 30, "INT4_G32"),
    ],
)
def test_names_that_are_no_encoding(encoding):
    assert grouped_format(encoding) is None
    with pytest.raises(ValueError, match="unknown encoding"):
        encoded_bytes(encoding, (32, 32))


@pytest.mark.parametrize("encoding", ["GPTQ4_128", "GPTQ4v2_64", "GPTQ8_32", "GPTQ8v2_1", "AWQ4_128"])
def test_names_are_read_as_written(encoding):
    assert grouped_format(encoding).encoding == encoding


def test_blocks_of_gguf_are_none_of_these(stored):
    entry, blob, _ = stored("AWQ4_32", (8, 32))
    with pytest.raises(CheckpointError, match="cannot be multiplied as it is stored"):
        stored_rows(entry, blob)
    with pytest.raises(CheckpointError, match="cannot be multiplied as stored"):
        grouped_blocks(TensorEntry(KEY, "Q4_0", (8, 32), 144), bytes(144))
    with pytest.raises(CheckpointError, match="cannot be multiplied as stored"):
        grouped_blocks(entry_of("AWQ4_32", (8, 32), transform="unpermute", heads=2), blob)


def test_bytes_in_memory():
    assert packed_bytes("INT4_G128", (16, 256)) == 16 * 2 * (4 + 64)
    assert packed_bytes("INT8_G32", (17, 32)) == 32 * 36
