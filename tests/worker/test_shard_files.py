"""Shard files: whole or not there, found damaged, rebuilt, mapped without a copy, cut while in use."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potluck.kernels.native_module import native
from potluck.models.open import open_checkpoint, read_spec
from potluck.worker import pages
from potluck.worker.mapped_file import MappedFile
from potluck.worker.mapped_weights import MappedWeights
from potluck.worker.packing import Packer
from potluck.worker.pieces import Form, Piece, Unit, pieces_of, units_of
from potluck.worker.shard import Shard, ShardConfig, StepError, Window
from potluck.worker.shard_file import check
from potluck.worker.shard_manifest import ShardFileError, read_manifest
from potluck.worker.shard_store import ShardStore

UNIT = Unit("layer", 3)
PIECES = [Piece("norm", (), "float32", (5,)), Piece("matrix.0", (), "BF16", (33, 40))]
FORM = Form("float32", False, True)


def content(piece, salt=0):
    generator = torch.Generator().manual_seed(salt + len(piece.name))
    return torch.randint(0, 256, (piece.nbytes,), dtype=torch.uint8, generator=generator)


def nothing(count):
    pass


@pytest.fixture
def store(tmp_path):
    return ShardStore(tmp_path, "ab" * 32, "model")


@pytest.fixture
def built(store):
    store.build(UNIT, PIECES, lambda piece: content(piece).split(7), nothing).mapping.close()
    return store.path(UNIT, PIECES)


def test_what_was_written_is_mapped_where_the_kernels_want_it(store):
    mapped = store.build(UNIT, PIECES, lambda piece: content(piece).split(100), nothing)
    assert {name: data.tolist() for name, data in mapped.placed().items()} == {
        piece.name: content(piece).tolist() for piece in PIECES
    }
    assert all(piece.begin % 64 == 0 for piece in mapped.manifest.pieces)
    assert mapped.mapping.size % pages.PAGE == 0 and mapped.manifest.pieces[0].begin % (16 << 10) == 0
    seen = []
    again = store.find(UNIT, PIECES, seen.append)
    assert sum(seen) == sum(piece.nbytes for piece in PIECES)
    assert again.manifest == mapped.manifest


def test_another_format_or_model_is_another_file(store, tmp_path):
    paths = {store.path(UNIT, PIECES), store.path(Unit("layer", 4), PIECES), store.path(UNIT, PIECES[:1])}
    paths.add(store.path(UNIT, [PIECES[0], Piece("matrix.0", (), "F16", (33, 40))]))
    paths.add(ShardStore(tmp_path, "cd" * 32, "model").path(UNIT, PIECES))
    assert len(paths) == 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=64)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(built, store, where, bit):
    """In any byte that means something; those between pieces mean nothing."""
    whole = built.read_bytes()
    try:
        damaged = bytearray(whole)
        damaged[int(where * len(whole))] ^= 1 << bit
        built.write_bytes(damaged)
        found = store.find(UNIT, PIECES, nothing)
        if found is not None:
            assert {name: data.tolist() for name, data in found.placed().items()} == {
                piece.name: content(piece).tolist() for piece in PIECES
            }
            found.mapping.close()
    finally:
        built.write_bytes(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=64)
@given(length=st.integers(0, 60_000))
def test_a_cut_file_is_found(built, store, length):
    whole = built.read_bytes()
    try:
        built.write_bytes(whole[: min(length, len(whole) - 1)])
        assert store.find(UNIT, PIECES, nothing) is None
    finally:
        built.write_bytes(whole)


def test_a_file_under_anothers_name_is_not_taken(built, store):
    other = store.path(Unit("layer", 4), PIECES)
    shutil.copy(built, other)
    assert store.find(Unit("layer", 4), PIECES, nothing) is None


def test_what_fails_in_the_middle_leaves_nothing(store, tmp_path):
    def make(piece):
        yield content(piece)[:10]
        raise ValueError("the checkpoint is damaged")

    with pytest.raises(ValueError, match="the checkpoint is damaged"):
        store.build(UNIT, PIECES, make, nothing)
    with pytest.raises(ShardFileError, match="has 10 bytes, not 20"):
        store.build(UNIT, PIECES, lambda piece: [content(piece)[:10]], nothing)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.root
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        large = [Piece("matrix.0", (), "F32", (64, 512))]
        store = ShardStore(place, "ab" * 32, "model")
        with pytest.raises(ShardFileError, match=r"cannot be written \(1 MiB|cannot be written \(0 MiB") as caught:
            store.build(UNIT, large, lambda piece: [content(piece)], nothing)
        assert "free some space or set --cache" in str(caught.value) and "\n" not in str(caught.value)
        assert [path for path in place.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", place], check=True)


needs_guard = pytest.mark.skipif(native is None, reason="Potluck was installed without its C++ extension")


@needs_guard
def test_a_file_cut_under_its_map_is_zeros_and_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\x01" * (4 * pages.PAGE))
    mapping = MappedFile(path)
    assert mapping.bytes[::512].all() and mapping.is_whole
    os.truncate(path, pages.PAGE)
    assert mapping.bytes[: pages.PAGE].all()
    assert not mapping.bytes[pages.PAGE :].any()
    assert not mapping.is_whole
    mapping.close()


def test_a_file_cut_before_it_is_brought_in_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\x01" * (4 * pages.PAGE))
    mapping = MappedFile(path)
    os.truncate(path, pages.PAGE)
    with pytest.raises(OSError, match=r"cannot be read|was cut"):
        pages.bring_in(mapping, lambda: True)
    mapping.close()


@needs_guard
def test_other_bus_errors_still_end_the_process():
    program = (
        "import mmap, os, sys, tempfile\n"
        "from potluck.kernels.native_module import native\n"
        "native.guard(4096, 4096)\n"
        "file = tempfile.TemporaryFile(); file.truncate(8192)\n"
        "view = mmap.mmap(file.fileno(), 8192, prot=mmap.PROT_READ)\n"
        "file.truncate(0); view[0]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == -7


@pytest.fixture
def shard(tiny_model, tmp_path):
    """A whole model whose last two layers are streamed, from files; and the store's folder."""
    path = tiny_model("llama3", 4, hidden_size=128, intermediate_size=512)
    spec, config = read_spec(path), ShardConfig(torch.float32, 8, 4, 16, torch.device("cpu"))
    windows = [Window(0, True, range(2), False), Window(1, False, range(2, 4), True, streamed=True)]
    shard, packer = Shard(spec, windows, config), Packer(spec, open_checkpoint(path))
    store, mapped = ShardStore(tmp_path, "ab" * 32, "model"), {}
    for unit in shard.units:
        pieces = pieces_of(spec, unit, config.form)
        mapped[unit] = store.build(unit, pieces, packer.make, nothing)
    shard.load(MappedWeights(mapped, shard.streamed_units, 1 << 20))
    yield shard, mapped
    shard.close()


def step_of(shard, number, tokens=(5, 6)):
    from potluck.proto.step import Outputs, Run, Sampling, Step

    step = Step(number, [Run(number, 0, list(tokens), [number], Outputs.LAST, Sampling(temperature=0.0))])
    return shard.run(1, step, shard.run(0, step, None))[0].token


@needs_guard
@pytest.mark.parametrize("unit", [Unit("layer", 0), Unit("layer", 3), Unit("head")])
def test_a_step_over_a_file_that_was_cut_has_no_result(shard, unit):
    shard, mapped = shard
    token = step_of(shard, 1)
    assert step_of(shard, 2) == token
    path = mapped[unit].mapping.path
    os.truncate(path, 0)
    with pytest.raises((ShardFileError, Exception), match=f"{unit}") as caught:
        for number in range(3, 6):
            assert step_of(shard, number) == token
    assert not isinstance(caught.value, (AssertionError, StepError)), caught.value


def test_units_hold_what_their_parts_need(tiny_model):
    from potluck.models.spec import PartKind

    spec = read_spec(tiny_model("qwen2"))
    ends = {PartKind.EMBEDDING, PartKind.HEAD}
    names = [str(unit) for unit in units_of(spec, ends, range(1, 3))]
    assert names == ["embedding", "layer-001", "layer-002", "output_norm"], "a tied head is the embedding"
    pieces = pieces_of(spec, Unit("layer", 1), FORM)
    assert [piece.name for piece in pieces] == [
        *("attention_norm", "qkv.0", "q_bias", "k_bias", "v_bias", "output.0", "ffn_norm", "gate_up.0", "down.0")
    ]


def test_a_manifest_survives_and_its_hashes_are_checked(built):
    manifest, mapping = read_manifest(built), MappedFile(built)
    check(mapping, manifest, nothing)
    assert manifest.model == "model" and manifest.unit == "layer-003"
    mapping.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_mapped_weights_are_no_memory_of_the_process(smollm2_path, tmp_path):
    """All of SmolLM2, 60 MiB quantised: after steps over it, the process has none of it as its own."""
    spec, config = read_spec(smollm2_path), ShardConfig(torch.bfloat16, 8, 16, 64, torch.device("cpu"), quantized=True)
    shard = Shard(spec, [Window(0, True, range(len(spec.layers)), True)], config)
    store, packer = ShardStore(tmp_path, "ab" * 32, "model"), Packer(spec, open_checkpoint(smollm2_path))
    mapped = {unit: store.build(unit, pieces_of(spec, unit, config.form), packer.make, nothing) for unit in shard.units}
    shard.load(MappedWeights(mapped, [], 0))
    from potluck.proto.step import Outputs, Run, Sampling, Step

    shard.run(0, Step(1, [Run(1, 0, [5, 6, 7], [0], Outputs.LAST, Sampling(temperature=0.0))]), None)
    maps = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    ours = [entry for entry in maps if ".shard" in entry]
    kib = {
        name: sum(int(found) for entry in ours for found in re.findall(rf"^{name}: +(\d+)", entry, re.M))
        for name in ("Rss", "Anonymous", "Private_Dirty")
    }
    assert kib["Anonymous"] == kib["Private_Dirty"] == 0
    assert kib["Rss"] << 10 >= shard.memory.weights
    assert psutil.Process().memory_info().rss > shard.memory.weights
    shard.close()
