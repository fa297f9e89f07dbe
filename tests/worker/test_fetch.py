"""Weights from another worker: the same text, nothing fetched twice, nothing wrong kept, nothing outside the cache."""

import os
import shutil
import signal
import threading

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.models.checkpoint import CheckpointError
from potluck.models.open import open_checkpoint
from potluck.models.roles import TensorKey
from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import open_channel, worker_stub
from potluck.proto.errors import FrameError
from potluck.worker.fetch import CHUNK, Fetcher, Holder, _fetch_one, check_fingerprint, parse_key

PROMPT = [5, 9, 17, 33, 2, 8]
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def whole(processes, tiny_model):
    """A model with tensors of several chunks."""
    return processes.Model(tiny_model("llama2", 2, hidden_size=1024))


@pytest.fixture(scope="module")
def expected(whole, two_workers, processes, epochs):
    worker, epoch = two_workers[0], next(epochs)
    worker.load(whole.whole(epoch, worker))
    with processes.client(epoch, worker) as client:
        tokens = client.generate(PROMPT, 5)
    worker.release(epoch)
    return tokens


def without_file(model, epoch, worker, source):
    sources = [pb.Peer(node=source.name, address=source.address)]
    return model.whole(epoch, worker, checkpoint_allowed=False, sources=sources)


def folder(worker, model):
    return worker.log.parent / worker.name / "tensors" / model.fingerprint


def fetched_bytes(progress):
    return max((p.bytes_done for p in progress if p.activity == "fetching"), default=0)


def test_the_text_of_fetched_weights(two_workers, processes, whole, epochs, expected):
    source, worker = two_workers
    epoch = next(epochs)
    progress = worker.load(without_file(whole, epoch, worker, source))
    size = sum(entry.nbytes for entry in open_checkpoint(whole.path).entries.values())
    assert fetched_bytes(progress) == size
    with processes.client(epoch, worker) as client:
        assert client.generate(PROMPT, 5) == expected
    worker.release(epoch)
    files = sorted(file.name for file in folder(worker, whole).iterdir())
    assert files == sorted(str(key) for key in open_checkpoint(whole.path).entries)


def test_damaged_and_half_fetched_tensors_are_completed(two_workers, processes, whole, epochs, expected):
    source, worker = two_workers
    place = folder(worker, whole)
    worker.load(without_file(whole, next(epochs), worker, source))
    worker.release(10**6)
    gate, up = place / "0.gate", place / "0.up"
    gate.write_bytes(gate.read_bytes()[:-1] + b"\x00")
    content = up.read_bytes()
    up.rename(place / "0.up.part")
    os.truncate(place / "0.up.part", 1000)
    down = place / "0.down"
    down.rename(place / "0.down.part")
    shutil.rmtree(worker.log.parent / worker.name / "shards")
    with (place / "0.down.part").open("r+b") as file:
        file.write(b"\xff" * 8)
    with processes.running(processes.Worker("b", worker.log.parent)) as (again,):
        again.load(without_file(whole, 1, again, source))
        with processes.client(1, again) as client:
            assert client.generate(PROMPT, 5) == expected
    assert up.read_bytes() == content
    assert not list(place.glob("*.part"))


def test_a_killed_fetch_goes_on_where_it_was(processes, tiny_model, two_workers, tmp_path):
    big = processes.Model(tiny_model("llama2", 6, hidden_size=1024, intermediate_size=4096))
    source = two_workers[0]
    size = sum(entry.nbytes for entry in open_checkpoint(big.path).entries.values())
    first = processes.Worker("c", tmp_path)
    seen = []
    with pytest.raises(grpc.RpcError):
        for progress in first.stub.Load(without_file(big, 1, first, source), timeout=60):
            seen.append(progress.bytes_done)
            if progress.bytes_done > size // 3:
                os.kill(first.pid, signal.SIGKILL)
    first.close()
    place = folder(first, big)
    kept = {file.name: file.stat() for file in place.iterdir() if file.suffix != ".part"}
    assert len(kept) > 3
    with processes.running(processes.Worker("c", tmp_path)) as (second,):
        assert fetched_bytes(second.load(without_file(big, 1, second, source))) == size
    assert all((place / name).stat().st_mtime_ns == was.st_mtime_ns for name, was in kept.items())


class Stub:
    """A source in this process, with faults to order; counts what it gave."""

    def __init__(self, holder, damage=(), cut=None):
        self.holder, self.damage, self.cut, self.given = holder, list(damage), cut, 0

    def Fetch(self, request):
        for chunk in self.holder.chunks(request):
            if self.cut is not None and self.given >= self.cut:
                self.cut = None
                raise CheckpointError("cut off")
            if self.damage and chunk.offset == 0:
                self.damage.pop()
                chunk.data = b"\xff" + chunk.data[1:]
            self.given += len(chunk.data)
            yield chunk


@pytest.fixture
def one(whole, tmp_path):
    """(holder, manifest entry, folder) of one tensor of four chunks."""
    holder = Holder(open_checkpoint)
    holder.find(whole.fingerprint, str(whole.path))
    place = tmp_path / whole.fingerprint
    place.mkdir()
    return holder, holder.entry(whole.fingerprint, "0.q"), place


def fetch_one(stub, entry, place):
    counted = []
    _fetch_one(stub, place, entry, counted.append)
    return sum(counted)


def test_every_byte_is_fetched_once_though_the_source_fails(one):
    holder, entry, place = one
    stub = Stub(holder, cut=2 * CHUNK)
    with pytest.raises(CheckpointError, match="cut off"):
        fetch_one(stub, entry, place)
    assert (place / "0.q.part").stat().st_size == 2 * CHUNK
    assert fetch_one(stub, entry, place) == entry.nbytes == stub.given
    assert fetch_one(stub, entry, place) == entry.nbytes == stub.given


def test_damaged_bytes_are_fetched_again_then_refused_by_name(one):
    holder, entry, place = one
    assert fetch_one(Stub(holder, damage=[1]), entry, place) == entry.nbytes
    (place / "0.q").unlink()
    with pytest.raises(CheckpointError, match=r"tensor 0\.q came damaged 2 times"):
        fetch_one(Stub(holder, damage=[1, 1]), entry, place)
    assert list(place.iterdir()) == []


def test_two_workers_may_share_a_cache(one):
    holder, entry, place = one
    stubs = [Stub(holder) for _ in range(4)]
    threads = [threading.Thread(target=fetch_one, args=(stub, entry, place)) for stub in stubs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(stub.given for stub in stubs) == entry.nbytes
    assert [file.name for file in place.iterdir()] == ["0.q"]


def test_a_source_that_is_gone_is_named_after_a_few_tries(processes, whole, tmp_path):
    request = pb.Assignment(checkpoint="x", sources=[pb.Peer(node="nas", address="127.0.0.1:1")])
    fetcher = Fetcher(tmp_path, processes.TOKEN, request)
    with pytest.raises(CheckpointError, match=r"cannot fetch its share \(nas: unavailable"):
        fetcher.fetch(whole.fingerprint, [TensorKey("embedding")], lambda total: lambda count: None)


@pytest.mark.parametrize(
    ("fingerprint", "key", "path", "code"),
    [
        (None, "0.q", None, None),
        (None, "99.q", None, Code.NOT_FOUND),
        (None, "0.nothing", None, Code.INVALID_ARGUMENT),
        (None, "../0.q", None, Code.INVALID_ARGUMENT),
        (None, "x" * 10_000, None, Code.INVALID_ARGUMENT),
        ("../../etc", "0.q", None, Code.INVALID_ARGUMENT),
        ("", "0.q", None, Code.INVALID_ARGUMENT),
        ("0" * 64, "0.q", None, Code.NOT_FOUND),
        ("0" * 64, "0.q", "", Code.NOT_FOUND),
        ("0" * 64, "0.q", "/dev/zero", Code.NOT_FOUND),
        ("0" * 64, "0.q", "y" * 5000, Code.NOT_FOUND),
        ("0" * 64, "0.q", "\0", Code.NOT_FOUND),
        ("0" * 64, "0.q", "/etc/passwd", Code.DATA_LOSS),
    ],
)
def test_what_a_source_answers(two_workers, processes, whole, fingerprint, key, path, code):
    worker = two_workers[0]
    fingerprint = whole.fingerprint if fingerprint is None else fingerprint
    path = str(whole.path) if path is None else path
    manifest = lambda: worker.stub.Manifest(  # noqa: E731
        pb.ManifestRequest(fingerprint=fingerprint, keys=[key], checkpoint=path), timeout=20
    )
    fetch = lambda: list(worker.stub.Fetch(pb.FetchRequest(fingerprint=fingerprint, key=key), timeout=20))  # noqa: E731
    if code is None:
        assert manifest().entries[0].nbytes == sum(len(chunk.data) for chunk in fetch())
        return
    assert processes.refusal(manifest)[0] is code
    assert processes.refusal(fetch)[0] in (code, Code.NOT_FOUND)


def test_an_offset_beyond_the_end(two_workers, processes, whole):
    source = two_workers[0]
    with open_channel(source.address, processes.TOKEN) as channel:
        stub = worker_stub(channel)
        stub.Manifest(pb.ManifestRequest(fingerprint=whole.fingerprint, checkpoint=str(whole.path)), timeout=20)
        request = pb.FetchRequest(fingerprint=whole.fingerprint, key="0.q", offset=2**63)
        assert processes.refusal(lambda: list(stub.Fetch(request, timeout=20)))[0] is Code.INVALID_ARGUMENT


@given(st.text(max_size=70))
def test_keys_and_fingerprints_never_leave_the_cache(text):
    for read in (parse_key, check_fingerprint):
        try:
            name = str(read(text))
        except FrameError:
            continue
        assert "/" not in name and not name.startswith(".") and name.isascii()
