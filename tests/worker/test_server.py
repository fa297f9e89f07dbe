"""The worker's server as a stranger meets it: whatever comes is answered by name, and a neighbour notices nothing."""

import contextlib

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL, open_channel, worker_stub
from potluck.proto.step import Outputs, Run
from potluck.proto.stream import StreamHead

Code = grpc.StatusCode
PROMPT = [5, 9, 17, 33, 2, 8]


def forward(worker, head, messages):
    """A Forward stream of these messages, to its end."""
    return list(worker.stub.Forward(iter(messages), metadata=head.metadata(), timeout=20))


def test_hello_and_health(two_workers):
    worker = two_workers[0]
    reply = worker.stub.Hello(pb.HelloRequest(protocol=PROTOCOL), timeout=5)
    assert (reply.protocol, reply.node) == (PROTOCOL, "a")
    worker.status()
    check = health_pb2_grpc.HealthStub(worker.channel).Check
    for service in ("", "potluck.Worker"):
        reply = check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_another_protocol_names_both(two_workers, processes):
    code, detail = processes.refusal(lambda: two_workers[0].stub.Hello(pb.HelloRequest(protocol=77), timeout=5))
    assert code is Code.FAILED_PRECONDITION
    assert f"protocol {PROTOCOL}" in detail and "77" in detail


def every_call(channel):
    stub, health = worker_stub(channel), health_pb2_grpc.HealthStub(channel)
    return {
        "Hello": lambda: stub.Hello(pb.HelloRequest(protocol=PROTOCOL), timeout=5),
        "Probe": lambda: stub.Probe(pb.ProbeRequest(), timeout=5),
        "ProbeLink": lambda: stub.ProbeLink(pb.LinkRequest(), timeout=5),
        "Load": lambda: list(stub.Load(pb.Assignment(), timeout=5)),
        "Manifest": lambda: stub.Manifest(pb.ManifestRequest(), timeout=5),
        "Fetch": lambda: list(stub.Fetch(pb.FetchRequest(), timeout=5)),
        "Forward": lambda: list(stub.Forward(iter([]), timeout=5)),
        "Release": lambda: stub.Release(pb.ReleaseRequest(), timeout=5),
        "Status": lambda: stub.Status(pb.StatusRequest(), timeout=5),
        "Check": lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=5),
        "Watch": lambda: next(health.Watch(health_pb2.HealthCheckRequest(), timeout=5)),
    }


def test_the_list_of_calls_is_complete():
    names = {method.name for method in pb.DESCRIPTOR.services_by_name["Worker"].methods}
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        assert names <= set(every_call(channel))


@pytest.mark.parametrize("token", [None, "u" * 32])
def test_no_call_without_the_token(undisturbed, processes, token):
    worker, _ = undisturbed
    with grpc.insecure_channel(worker.address) if token is None else open_channel(worker.address, token) as channel:
        codes = {name: processes.refusal(call)[0] for name, call in every_call(channel).items()}
    assert set(codes.values()) == {Code.UNAUTHENTICATED}, codes


@pytest.mark.parametrize("role", ["coordinator", "worker"])
def test_bad_frames_end_their_own_stream(undisturbed, processes, bad_frame, role):
    worker, epoch = undisturbed
    make, expected_code = bad_frame
    resident = psutil.Process(worker.pid).memory_info().rss
    # No limit on this side, so that the worker's own is met.
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(worker.address, options) as channel:
        metadata = (*StreamHead("stranger", role, epoch).metadata(), ("authorization", f"Bearer {processes.TOKEN}"))
        stub = worker_stub(channel)
        code, detail = processes.refusal(
            lambda: list(stub.Forward(iter(list(make(epoch))), metadata=metadata, timeout=20))
        )
    assert code is expected_code, detail
    assert "\n" not in detail
    assert psutil.Process(worker.pid).memory_info().rss < resident + (64 << 20)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("potluck-protocol", "9", Code.FAILED_PRECONDITION),
        ("potluck-epoch", "999999", Code.FAILED_PRECONDITION),
        ("potluck-epoch", "-1", Code.INVALID_ARGUMENT),
        ("potluck-epoch", "9" * 30, Code.INVALID_ARGUMENT),
        ("potluck-role", "king", Code.INVALID_ARGUMENT),
        ("potluck-node", "", Code.INVALID_ARGUMENT),
        ("potluck-node", "n" * 300, Code.INVALID_ARGUMENT),
    ],
)
def test_streams_with_a_bad_head(undisturbed, processes, name, value, code):
    worker, epoch = undisturbed
    metadata = dict(StreamHead("stranger", "worker", epoch).metadata()) | {name: value}
    call = lambda: list(worker.stub.Forward(iter([]), metadata=tuple(metadata.items()), timeout=20))  # noqa: E731
    assert processes.refusal(call)[0] is code


def test_a_stream_cut_off_is_no_error(undisturbed, processes):
    worker, epoch = undisturbed
    with processes.client(epoch + 1, worker) as client:
        assert client.get().status is Code.FAILED_PRECONDITION
    stream = worker.stub.Forward(iter([]), metadata=StreamHead("x", "worker", epoch).metadata())
    stream.cancel()
    worker.status()
    assert "Traceback" not in worker.log.read_text()


def test_two_epochs_a_third_and_fences(two_workers, processes, served, epochs, expected):
    worker = two_workers[1]
    old, new, third = next(epochs), next(epochs), next(epochs)
    worker.load(served.whole(old, worker))
    assert worker.load(served.whole(new, worker))[-1].ready
    assert sorted(worker.status().epochs) == [old, new]
    code, detail = processes.refusal(lambda: worker.load(served.whole(third, worker)))
    assert code is Code.FAILED_PRECONDITION and "release" in detail
    with processes.client(old, worker) as first, processes.client(new, worker) as second:
        assert first.generate(PROMPT, 4) == second.generate(PROMPT, 4) == expected
        worker.release(old)
        # The stream of the released epoch, still open, runs nothing any more.
        with contextlib.suppress(Exception):
            first.send([Run(1, 0, [5], [0], Outputs.LAST)])
        ended = first.get()
        assert isinstance(ended, processes.Broken), ended
        assert second.generate(PROMPT, 4) == expected
    for stale in (old, new):
        code, _ = processes.refusal(lambda stale=stale: worker.load(served.whole(stale, worker)))
        assert code is Code.FAILED_PRECONDITION
    worker.release(new)
    assert not worker.status().epochs


def test_a_release_frees_the_memory_though_streams_stay_open(two_workers, processes, served, epochs):
    worker, epoch = two_workers[1], next(epochs)
    worker.load(served.whole(epoch, worker, kv_blocks=20_000))
    full = worker.status().resident_bytes
    with processes.client(epoch, worker) as client:
        client.generate(PROMPT, 2)
        worker.release(epoch)
        kv = 20_000 * 16 * served.spec.kv_width() * 4 * len(served.spec.layers)
        assert processes.wait_for(lambda: worker.status().resident_bytes < full - kv / 2, 5)


def test_status_counts(two_workers, processes, served, epochs):
    worker, epoch = two_workers[1], next(epochs)
    worker.load(served.whole(epoch, worker))
    before = worker.status()
    with processes.client(epoch, worker) as client:
        client.generate(PROMPT, 3)
        after = worker.status()
    assert (after.steps - before.steps, after.rows - before.rows) == (4, len(PROMPT) + 2)
    assert after.compute_seconds > before.compute_seconds
    assert after.uptime_seconds > before.uptime_seconds
    counts = {link.node: link for link in after.links}
    assert counts["engine"].payload_bytes == 0
    worker.release(epoch)
