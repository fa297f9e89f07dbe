"""Cut and bit-flipped files are refused with a CheckpointError, quickly and without large allocations."""

import json
import random
import struct
import time
import tracemalloc

import pytest

from potluck.models.checkpoint import CheckpointError
from potluck.models.decode import decode
from potluck.models.families import UnsupportedModel
from potluck.models.gguf_metadata import read_header, read_metadata
from potluck.models.open import open_checkpoint, read_spec

SECONDS_A_FILE = 5.0
BYTES_A_FILE = 64 << 20


def refused(path):
    """Whether opening and decoding all of a checkpoint is refused; any other exception fails the test."""
    try:
        checkpoint = open_checkpoint(path)
        for key, entry in checkpoint.entries.items():
            decode(entry, checkpoint.raw(key))
    except (CheckpointError, UnsupportedModel) as error:
        assert "\n" not in str(error)
        return True
    return False


def bounded(path):
    """refused(path), under a limit of time and memory that a loop or allocation driven by a wrong count would pass."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        return refused(path)
    finally:
        assert tracemalloc.get_traced_memory()[1] < BYTES_A_FILE
        tracemalloc.stop()
        assert time.monotonic() - started < SECONDS_A_FILE


def cut_points(length, header):
    points = {0, 1, 3, 4, 7, 8, 23, 24, 25, header - 1, header, header + 1, length - 1}
    return sorted(points | {length * part // 12 for part in range(12)} | {header * part // 12 for part in range(12)})


@pytest.fixture
def flipped(tmp_path):
    """flipped(data, name, rng) writes data with one to three bits flipped in its first `header` bytes."""

    def flip(data, name, header, rng):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(header)] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(changed)
        return tmp_path / name

    return flip


def test_cut_gguf(tiny_gguf, tmp_path):
    source = tiny_gguf("gemma3")
    data, header = source.read_bytes(), read_header(source).nbytes
    target = tmp_path / "cut.gguf"
    assert not refused(source)
    for length in cut_points(len(data), header):
        target.write_bytes(data[:length])
        assert bounded(target), f"{length} of {len(data)} bytes were accepted"


def test_bits_flipped_in_gguf_structure(tiny_gguf, flipped):
    """Counts, types, lengths, offsets: everything but the texts, whose change no reader can know."""
    source = tiny_gguf("llama3")
    data, rng = source.read_bytes(), random.Random(1)
    for _ in range(150):
        bounded(flipped(data, "x.gguf", read_header(source).nbytes, rng))
    for _ in range(50):
        bounded(flipped(data, "x.gguf", 256, rng))


def test_every_bit_of_the_gguf_counts(tiny_gguf, tmp_path):
    data = bytearray(tiny_gguf("llama2").read_bytes())
    target = tmp_path / "x.gguf"
    for position in range(24):
        for bit in range(8):
            data[position] ^= 1 << bit
            target.write_bytes(data)
            # Versions 2 and 3 have one layout: this one flip changes nothing.
            assert bounded(target) or (position, bit) == (4, 0), f"bit {bit} of byte {position}"
            data[position] ^= 1 << bit


def gguf(*fields, tensors=0, count=None):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(fields) if count is None else count) + b"".join(fields)


def text(value):
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(100), "is not a GGUF file"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (gguf(count=1 << 63), "cannot fit"),
        (gguf(tensors=1 << 40), "cannot fit"),
        (gguf(text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 60), b" " * 64), "cannot fit"),
        (gguf(text(b"k") + struct.pack("<IIQ", 9, 0, 5 << 20) + bytes(5 << 20)), "cannot fit"),
        (gguf(text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(32)), "unsupported type 9"),
        (gguf(text(b"k") + struct.pack("<I", 77) + bytes(8)), "unknown type 77"),
        (gguf(text(b"k\xff") + struct.pack("<IB", 0, 1)), "not UTF-8"),
        (gguf(text(b"k") + struct.pack("<IB", 0, 1), text(b"k") + struct.pack("<IB", 0, 1)), "twice"),
        (gguf(text(b"general.alignment") + struct.pack("<II", 4, 0)), "power of two"),
        (gguf(tensors=1) + text(b"t") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0), "past the end"),
        (gguf(tensors=1) + text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0) + bytes(64), "does not divide"),
        (gguf(tensors=1) + text(b"t") + struct.pack("<IQIQ", 1, 4, 99, 0) + bytes(64), "unknown type 99"),
        (gguf(tensors=1) + text(b"t") + struct.pack("<IQIQ", 9, 4, 0, 0) + bytes(99), "9 dimensions"),
        (gguf(tensors=1) + text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 32) + bytes(99), "lies at 32, not at 0"),
    ],
)
def test_hostile_gguf_headers(tmp_path, data, message):
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_metadata(path)


def test_cut_safetensors(tiny_model, tmp_path):
    source = tiny_model("qwen3")
    data = (source / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    for length in cut_points(len(data), 8 + int.from_bytes(data[:8], "little")):
        (tmp_path / "model.safetensors").write_bytes(data[:length])
        assert bounded(tmp_path), f"{length} of {len(data)} bytes were accepted"


def test_bits_flipped_in_safetensors_header(tiny_model, tmp_path, flipped):
    source = tiny_model("qwen3")
    data, rng = (source / "model.safetensors").read_bytes(), random.Random(2)
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    outcomes = [bounded(flipped(data, "model.safetensors", header, rng).parent) for _ in range(100)]
    assert sum(outcomes) > 90


def test_bits_flipped_in_config(tiny_model, tmp_path, flipped):
    source = tiny_model("gemma3")
    data, rng = (source / "config.json").read_bytes(), random.Random(3)
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    for _ in range(100):
        bounded(flipped(data, "config.json", len(data), rng).parent)


def safetensors(header, data=b""):
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + data


def tensor(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<Q", 1 << 62) + b"{}", "damaged, cut"),
        (safetensors(b"[1]"), "JSON object"),
        (safetensors(b"{nonsense"), "no valid JSON"),
        (safetensors(b"[" * 100_000), "no valid JSON"),
        (safetensors({"a": tensor(0, 8)}), "describes 'a' wrongly"),
        (safetensors({"a": tensor(-8, 0)}, bytes(8)), "describes 'a' wrongly"),
        (safetensors({"a": tensor(0, 8, (1 << 62, 1 << 62))}, bytes(8)), "describes 'a' wrongly"),
        (safetensors({"a": tensor(0, 8, (True, 2))}, bytes(8)), "describes 'a' wrongly"),
        (safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "overlap"),
        (safetensors({"a": tensor(8, 16)}, bytes(16)), "gap"),
        (safetensors({"a": tensor(0, 8)}, bytes(9)), "its header says"),
        (safetensors({"a": tensor(0, 8)}, bytes(8)), r"lacks the tensors model.embed_tokens.weight.*and \d+ more"),
    ],
)
def test_hostile_safetensors_headers(tiny_model, tmp_path, data, message):
    (tmp_path / "config.json").write_bytes((tiny_model("qwen3") / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_file_cut_while_in_use(tiny_gguf, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(tiny_gguf("llama3").read_bytes())
    checkpoint = open_checkpoint(path)
    key = list(checkpoint.entries)[-1]
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="was cut to 1000 bytes while in use"):
        checkpoint.raw(key)


def test_config_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"config\.json is no valid JSON"):
        read_spec(tmp_path)
