"""Workers whose shard files are damaged, cut or cannot be written: a named error, no crash, and the next load heals."""

import os
import subprocess
import time

import grpc
import pytest

from potluck.kernels.native_module import native
from potluck.proto import cluster_pb2 as pb
from potluck.proto.frames import Fault
from potluck.proto.step import Outputs, Run, Sampling

PROMPT = [5, 9, 17, 33, 2, 8]


@pytest.fixture
def model(processes, tiny_model):
    return processes.Model(tiny_model("llama3", 4, hidden_size=128, intermediate_size=512))


def files_of(worker, pattern="*.shard"):
    return sorted((worker.log.parent / worker.name / "shards").rglob(pattern))


def test_a_second_start_reads_no_checkpoint(processes, model, tmp_path):
    with processes.running(processes.Worker("a", tmp_path)) as (first,):
        activities = {progress.activity for progress in first.load(model.whole(1, first))}
        assert "building" in activities
        with processes.client(1, first) as client:
            tokens = client.generate(PROMPT, 5)
    before = {path: path.stat().st_mtime_ns for path in files_of(first)}
    assert len(before) == 4 + 3
    with processes.running(processes.Worker("a", tmp_path)) as (again,):
        # It may not read the model's file, and nobody else has it.
        progress = again.load(model.whole(1, again, checkpoint_allowed=False))
        assert {one.activity for one in progress if one.activity} == {"checking", "ready"}
        with processes.client(1, again) as client:
            assert client.generate(PROMPT, 5) == tokens
    assert {path: path.stat().st_mtime_ns for path in files_of(again)} == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "half"])
def test_a_damaged_file_is_built_again(processes, model, tmp_path, damage):
    with processes.running(processes.Worker("a", tmp_path)) as (worker,):
        worker.load(model.whole(1, worker))
        with processes.client(1, worker) as client:
            tokens = client.generate(PROMPT, 5)
        worker.release(1)
        victim = files_of(worker, "layer-002*.shard")[0]
        whole = victim.read_bytes()
        if damage == "flipped":
            middle = len(whole) // 2
            victim.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        elif damage == "cut":
            os.truncate(victim, len(whole) // 2)
        elif damage == "gone":
            victim.unlink()
        else:
            victim.rename(victim.with_name(victim.name + ".99.part"))
        worker.load(model.whole(2, worker))
        with processes.client(2, worker) as client:
            assert client.generate(PROMPT, 5) == tokens
        assert victim.read_bytes() == whole
        said = worker.log.read_text()
        assert ("building it again" in said) == (damage in ("flipped", "cut"))


def test_a_damaged_file_with_nothing_to_build_it_from_is_an_error(processes, model, tmp_path):
    with processes.running(processes.Worker("a", tmp_path)) as (worker,):
        worker.load(model.whole(1, worker))
        worker.release(1)
        victim = files_of(worker, "head*.shard")[0]
        os.truncate(victim, 100)
        code, detail = processes.refusal(lambda: worker.load(model.whole(2, worker, checkpoint_allowed=False)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "cannot fetch its share" in detail and "\n" not in detail
        assert worker.load(model.whole(3, worker))[-1].ready


@pytest.mark.skipif(native is None, reason="Potluck was installed without its C++ extension")
def test_a_file_cut_while_it_is_computed_with_ends_the_epoch_and_nothing_else(processes, model, tmp_path):
    with processes.running(processes.Worker("a", tmp_path)) as (worker,):
        worker.load(model.whole(1, worker))
        with processes.client(1, worker) as client:
            tokens = client.generate(PROMPT, 5)
            os.truncate(files_of(worker, "layer-001*.shard")[0], 0)
            with pytest.raises(AttributeError, match="Fault"):
                client.generate(PROMPT, 5, sequence=2)
            client.send([])
            fault = client.get()
        assert isinstance(fault, Fault) and fault.node == "a"
        assert "layer-001" in fault.reason and "was cut" in fault.reason
        worker.release(1)
        worker.load(model.whole(2, worker))
        with processes.client(2, worker) as client:
            assert client.generate(PROMPT, 5) == tokens


@pytest.mark.parametrize("stays", [True, False], ids=["resident", "streamed"])
def test_a_file_changed_while_it_is_computed_with_ends_the_epoch(processes, model, tmp_path, stays):
    with processes.running(processes.Worker("a", tmp_path)) as (worker,):
        windows = [pb.Window(stage=0, embedding=True, end_layer=4, head=True, streamed=not stays)]
        worker.load(model.assignment(1, windows, [worker], stream_bytes=1 << 20))
        with processes.client(1, worker) as client:
            tokens = client.generate(PROMPT, 5)
            victim = files_of(worker, "layer-001*.shard")[0]
            with victim.open("r+b") as file:
                file.seek(victim.stat().st_size // 2)
                file.write(b"\xff" * 64)
            fault, deadline = None, time.monotonic() + 20
            while not isinstance(fault, Fault) and time.monotonic() < deadline:
                client.send([])
                client.send([Run(client.number, 0, PROMPT, [0, 1], Outputs.LAST, Sampling(temperature=0.0))])
                client.send([], [client.number - 1])
                fault = next(
                    (item for item in (client.get(), client.get(), client.get()) if isinstance(item, Fault)), None
                )
                time.sleep(0.2)
        assert isinstance(fault, Fault) and "layer-001" in fault.reason and "changed while in use" in fault.reason
        worker.release(1)
        worker.load(model.whole(2, worker))
        with processes.client(2, worker) as client:
            assert client.generate(PROMPT, 5) == tokens


@pytest.mark.root
def test_a_full_disk_is_refused_by_name(processes, model, tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        with processes.running(processes.Worker("a", tmp_path)) as (worker,):
            code, detail = processes.refusal(lambda: worker.load(model.whole(1, worker)))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "cannot be written" in detail and "free some space or set --cache" in detail
            assert not files_of(worker, "*.part")
            subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
            assert worker.load(model.whole(2, worker))[-1].ready
    finally:
        subprocess.run(["umount", place], check=True)
