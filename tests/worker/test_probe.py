"""What a node measures of itself: of the operations that run, in their units, with nothing left behind."""

import math
import os
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from potluck.kernels import packed
from potluck.kernels.decode_layers import DecodeLayers
from potluck.models.costs import ATTENTION, NARROW, NARROW_COLUMNS, FormatSpeed
from potluck.models.encodings import packed_bytes, plain_bytes
from potluck.proto import cluster_pb2 as pb
from potluck.worker import disk_speed, kernel_speed, layer_overhead
from potluck.worker.decoder import Layer
from potluck.worker.device import CPU
from potluck.worker.disk_speed import DiskSpeed, measure_disk
from potluck.worker.emulation import DescribedDevice
from potluck.worker.gpu.copy_speed import measure_copy_bandwidth
from potluck.worker.kernel_speed import KernelBench, formats_here, in_turn, narrow, pool_size
from potluck.worker.layer_overhead import measure_layer_overhead
from potluck.worker.sample_products import filled_pool
from potluck.worker.timing import Work, seconds, typical

MIB = 1 << 20


# Samples -------------------------------------------------------------------------------------------------------------


def counted(samples, taken):
    for sample in samples:
        taken.append(sample)
        yield sample


@pytest.mark.parametrize(
    ("samples", "median", "count"),
    [
        ([1.0] * 50, 1.0, 5),
        ([9.0, 1.0, 1.0, 5.0, 1.0, *[1.0] * 50], 1.0, 11),  # until both slow ones are less than a quarter
        ([1.0, 2.0] * 50, 1.5, 20),  # never steady: until the budget is spent
        ([40.0, 1.0], 40.0, 1),  # a slow node is asked once
    ],
)
def test_samples_are_taken_until_they_agree_or_the_budget_is_spent(samples, median, count):
    taken = []
    assert typical(counted(samples, taken), 30.0) == median
    assert len(taken) == count


def test_seconds_are_those_of_the_operation_as_the_described_node_does_it():
    described = DescribedDevice(1e9, 1e9, {"Q4_0": FormatSpeed(2e9, 5e8)})
    work = Work(partial(time.sleep, 0.03), flops=1e8, nbytes=1e8)
    assert 0.03 <= seconds(work, None, CPU) < 0.1 <= seconds(work, described, CPU) < 0.2
    assert 0.2 <= seconds(work._replace(encoding="Q4_0"), described, CPU) < 0.3


# Products ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool():
    return filled_pool(pool_size(CPU, 0))


def test_the_pool_is_there_and_larger_than_a_cache_where_there_is_memory(pool):
    assert pool_size(CPU, 64 << 30) >= 256 * MIB > pool_size(CPU, 400 * MIB)
    # Pages that nobody wrote are one page, which every cache holds.
    assert int(pool.min()) == int(pool.max()) > 0


@pytest.mark.parametrize("encoding", ["F32", "BF16", "F16", *formats_here()])
def test_speeds_are_operations_and_bytes_over_seconds(pool, monkeypatch, encoding):
    timed = []

    def second(work, described, device):
        out = work.operation()
        assert bool(torch.isfinite(out).all())
        timed.append((work, out.shape[0]))
        return 1.0

    monkeypatch.setattr(kernel_speed, "seconds", second)
    speed = KernelBench(pool).speed(encoding)
    shapes = kernel_speed.shapes_of(CPU)
    itemsize = {"F32": 4, "BF16": 2, "F16": 2}.get(encoding)
    nbytes = plain_bytes(shapes.decode, itemsize) if itemsize else packed_bytes(encoding, shapes.decode)
    assert speed.bandwidth == nbytes
    assert speed.flops == 2 * math.prod(shapes.prefill) * shapes.rows
    assert {rows for _, rows in timed} == {1, shapes.rows}
    # What bounds a described node: bytes with one row, operations with many.
    assert {(work.flops, work.nbytes, work.encoding) for work, rows in timed if rows == 1} == {(0, nbytes, encoding)}
    assert {(work.flops, work.nbytes) for work, rows in timed if rows > 1} == {(speed.flops, 0)}


def test_short_rows_are_measured_as_a_described_node_knows_them(pool, monkeypatch):
    timed = []

    def second(work, described, device):
        work.operation()
        timed.append(work)
        return 1.0

    monkeypatch.setattr(kernel_speed, "seconds", second)
    shapes, speed = kernel_speed.shapes_of(CPU), KernelBench(pool).speed(narrow("F32"))
    assert speed.bandwidth == plain_bytes((shapes.decode[0], NARROW_COLUMNS), 4)
    assert speed.flops == 2 * shapes.prefill[0] * NARROW_COLUMNS * shapes.rows
    assert {work.encoding for work in timed} == {NARROW}


@pytest.mark.skipif(not packed.available(), reason="installed without the extension")
@pytest.mark.parametrize("exact", [False, True])
def test_weight_only_measures_unrounded_activations(pool, monkeypatch, exact):
    used = []
    multiply = packed.PackedMatrix.multiply

    def watched(self, x_TI, out_TP, first, exact=False):
        used.append(exact)
        multiply(self, x_TI, out_TP, first, exact)

    monkeypatch.setattr(packed.PackedMatrix, "multiply", watched)
    KernelBench(pool, exact=exact, budget=0.0).speed("Q4_0")
    assert set(used) == {exact}


@pytest.mark.skipif(not packed.has_vectors(), reason="torch multiplies plain numbers here")
def test_decoding_goes_through_all_of_the_pool_in_turn(monkeypatch):
    large, read = filled_pool(4 * pool_size(CPU, 0)), []

    def second(work, described, device):
        (piece, _), *_ = work.operation.func._pieces
        read.append(piece.data.data_ptr())
        return 1.0

    monkeypatch.setattr(kernel_speed, "seconds", second)
    monkeypatch.setattr(KernelBench, "_flops", lambda *_: 1.0)
    KernelBench(large, budget=9.0).speed("F32")
    assert len(set(read)) == 4 and read[:3] == read[4:7]


def test_rounds_go_over_all_formats_and_the_middle_counts():
    speeds = iter([(1, 10), (2, 20), (9, 1), (2, 2), (3, 30), (2, 20)])
    asked = []

    def speed(encoding):
        asked.append(encoding)
        return FormatSpeed(*map(float, next(speeds)))

    found = in_turn(["Q4_0", "Q8_0"], SimpleNamespace(speed=speed), lambda: False)
    assert asked == ["Q4_0", "Q8_0"] * 3
    assert (found["Q4_0"].flops, found["Q4_0"].bandwidth) == (3.0, 10.0)
    assert (found["Q8_0"].flops, found["Q8_0"].bandwidth) == (2.0, 20.0)


def test_when_time_is_over_the_rest_is_left_out():
    measured = []
    bench = SimpleNamespace(speed=lambda encoding: measured.append(encoding) or FormatSpeed(1.0, 1.0))
    assert list(in_turn(["F32", "Q4_0", "Q8_0"], bench, lambda: len(measured) >= 2)) == ["F32", "Q4_0"]
    assert len(measured) == 2
    # A quota makes every sample long: the compute type is still measured more than once.
    assert list(in_turn(["F32", "Q4_0"], bench, lambda: True, ["F32"])) == ["F32"]
    assert measured[2:] == ["F32"] * 3


# Software, copies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_software_is_counted_a_layer(monkeypatch, dtype):
    """Whether layers are called one by one, or all in one call."""
    forward, run = Layer.forward, DecodeLayers.run

    def slower(self, x_TD, batch):
        time.sleep(1e-3)
        return forward(self, x_TD, batch)

    def slower_in_one(self, *given):
        time.sleep(1e-3 * self._count)
        return run(self, *given)

    monkeypatch.setattr(layer_overhead, "_WARM", 2)
    monkeypatch.setattr(Layer, "forward", slower)
    monkeypatch.setattr(DecodeLayers, "run", slower_in_one)
    assert 1e-3 < measure_layer_overhead(dtype) < 4e-3


def test_what_a_step_takes_beside_layers_is_not_the_layers(monkeypatch):
    from potluck.worker.shard import Shard

    run = Shard.run

    def slower(self, stage, step, x_TD):
        time.sleep(50e-3)
        return run(self, stage, step, x_TD)

    monkeypatch.setattr(layer_overhead, "_WARM", 1)
    monkeypatch.setattr(Shard, "run", slower)
    assert measure_layer_overhead(torch.float32) < 2e-3


def test_copies_are_bytes_over_seconds(monkeypatch):
    done = []
    monkeypatch.setattr("potluck.worker.gpu.copy_speed.seconds", lambda work, *_: done.append(work.operation()) or 0.5)
    assert measure_copy_bandwidth(CPU, MIB) == 2 * MIB
    assert all(int(copied.min()) == 1 for copied in done)


# Disk ----------------------------------------------------------------------------------------------------------------


def test_a_disk_is_measured_and_nothing_is_left(tmp_path):
    speed = measure_disk(tmp_path / "cache" / "of" / "shards")
    assert speed.sequential > 0 and speed.random > 0
    assert not list((tmp_path / "cache" / "of" / "shards").iterdir())


def test_a_file_that_is_there_is_read_instead(tmp_path, monkeypatch):
    file = tmp_path / "shards" / "layer.0"
    file.parent.mkdir()
    file.write_bytes(os.urandom(MIB) * 64)
    monkeypatch.setattr(disk_speed.tempfile, "NamedTemporaryFile", lambda **_: pytest.fail("wrote a file"))
    assert measure_disk(tmp_path).sequential > 0


@pytest.mark.parametrize("direct", [True, False])
def test_reads_go_past_the_page_cache(tmp_path, monkeypatch, direct):
    """What lies in it would be read at the speed of memory."""
    file, asked, forget = tmp_path / "large", [], os.posix_fadvise
    file.write_bytes(os.urandom(MIB) * 64)
    monkeypatch.setattr(os, "posix_fadvise", lambda *given: asked.append(given[1:]) or forget(*given))
    if not direct:
        # As on a file system that takes the flag and refuses the reads.
        monkeypatch.setattr(disk_speed, "_can_read", lambda _: False)
    with disk_speed._uncached(file) as opened:
        opened.seconds(4096, 8192)
        assert opened._direct or asked == [(4096, 8192, os.POSIX_FADV_DONTNEED)]
        assert bytes(opened._into[:8192]) == file.read_bytes()[4096:12288]
    assert opened._direct <= direct


@pytest.mark.parametrize("lack", ["room", "folder", "ways"])
def test_a_disk_that_cannot_be_measured_is_unknown(tmp_path, monkeypatch, lack):
    folder = tmp_path / "cache"
    if lack == "room":
        monkeypatch.setattr(disk_speed.shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * MIB))
    if lack == "folder":
        folder.write_text("a file")
    if lack == "ways":
        monkeypatch.setattr(disk_speed, "_can_read", lambda _: False)
        monkeypatch.delattr(os, "posix_fadvise")
    assert measure_disk(folder) == DiskSpeed(0.0, 0.0)
    assert not folder.is_dir() or not list(folder.iterdir())


# A worker ------------------------------------------------------------------------------------------------------------


def test_a_worker_tells_what_was_asked_for_and_only_what_is_new(processes, tmp_path):
    imitating = processes.Worker(
        "b", tmp_path / "b", emulate={"device": {"flops": 2e9, "memory_bandwidth": 1e9}, "disk": 1e8}
    )
    with processes.running(processes.Worker("a", tmp_path / "a"), imitating) as (worker, other):
        wanted = pb.ProbeRequest(dtype="quantized", formats=["Q4_0", "Q9_9"])
        reply = worker.stub.Probe(wanted, timeout=60)
        assert [one.format for one in reply.formats] == [NARROW, *(["Q4_0"] if packed.available() else []), ATTENTION]
        speeds = reply.flops, reply.memory_bandwidth, reply.disk_bandwidth, reply.disk_random
        assert min(speeds) > 0 and all(one.flops > 0 and one.bandwidth > 0 for one in reply.formats)
        assert 0 < reply.memory_free < reply.memory_total and reply.cores > 0 and not reply.unchanged
        wanted.known = reply.fingerprint
        again = worker.stub.Probe(wanted, timeout=60)
        assert again.unchanged and again.fingerprint == reply.fingerprint and again.memory_free > 0
        assert not again.flops and not again.formats and not again.seconds
        # Another node that is imitated on this machine is another node.
        imitated = other.stub.Probe(wanted, timeout=60)
    assert not imitated.unchanged and imitated.fingerprint != reply.fingerprint
    assert (imitated.disk_bandwidth, imitated.disk_random, imitated.layer_overhead) == (1e8, 0, 0)
    assert "\n" not in reply.fingerprint and not list(tmp_path.rglob("disk-speed-*"))


def test_a_saved_fleet_that_is_imitated_measures_as_it_was_saved(processes, tmp_path):
    """Short rows, attention and software too, where the description has them (what was measured and saved has)."""
    formats = {NARROW: {"flops": 5e9, "bandwidth": 2e9}, ATTENTION: {"flops": 2e9, "bandwidth": 1e8}}
    speeds = {"flops": 2e10, "memory_bandwidth": 6e9, "layer_overhead": 2e-3, "formats": formats}
    with processes.running(processes.Worker("a", tmp_path, emulate={"device": speeds})) as (worker,):
        reply = worker.stub.Probe(pb.ProbeRequest(dtype="bfloat16"), timeout=60)
    assert reply.layer_overhead == pytest.approx(2e-3, rel=0.25)
    told = {one.format: (one.flops, one.bandwidth) for one in reply.formats}
    assert told == {name: pytest.approx(tuple(of.values()), rel=0.25) for name, of in formats.items()}
