"""Two workers and the links between them: the same text, exact counts, and what happens when one of them dies."""

import os
import signal
import subprocess
import sys

import grpc
import psutil
import pytest

from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL
from potluck.proto.frames import Fault, step_frame
from potluck.proto.link import LinkError
from potluck.proto.step import Outputs, Run, Sampling, Step

PROMPT = [5, 9, 17, 33, 2, 8]
BOTH_WIRES = pytest.mark.parametrize("two_workers", ["tcp", "grpc"], indirect=True)
EITHER_WIRE = pytest.mark.parametrize("wire", ["tcp", "grpc"])


def load_halves(served, epoch, first, second, **options):
    for worker, assignment in zip((first, second), served.halves(epoch, first, second, **options), strict=True):
        worker.load(assignment)


def release(epoch, *workers):
    for worker in workers:
        worker.release(epoch)


def link(worker, node):
    """(frames, payload bytes, header bytes) that the worker sent to a node."""
    found = {count.node: count for count in worker.status().links}.get(node, pb.LinkCount())
    return found.frames, found.payload_bytes, found.header_bytes


@BOTH_WIRES
@pytest.mark.parametrize("head_first", [False, True])
def test_the_text_and_every_byte(two_workers, processes, served, epochs, tiny_oracle, head_first):
    first, second = two_workers
    epoch = next(epochs)
    load_halves(served, epoch, first, second, head_first=head_first)
    before = [link(first, "b"), link(second, "a")]
    with processes.client(epoch, first, second) as client:
        tokens = client.generate(PROMPT, 6)
        assert tiny_oracle("qwen3").agrees(PROMPT, tokens)
        # One chunk of a longer prompt, of which no row is sampled, then the last.
        client.send([Run(2, 0, PROMPT, [0], Outputs.NONE, Sampling())])
        assert client.get().outcomes == []
        client.send([Run(2, 6, [1, 2], [], Outputs.LAST)])
        assert len(client.get().outcomes) == 1
    rows, sampled, steps = len(PROMPT) + 5 + 8, 6 + 1, 6 + 1 + 2
    row = served.spec.hidden * 4
    for worker, was, node, count in ((first, before[0], "b", rows), (second, before[1], "a", sampled)):
        frames, payload, header = (now - then for now, then in zip(link(worker, node), was, strict=True))
        if worker is first or head_first:
            assert (frames, payload) == (steps, count * row)
            assert 0 < header < 400 * frames
        else:
            assert frames == 0
    release(epoch, first, second)


@BOTH_WIRES
def test_large_steps_travel_in_parts(two_workers, processes, tiny_model, epochs, tiny_oracle):
    first, second = two_workers
    wide, epoch = processes.Model(tiny_model("llama2", 2, hidden_size=1024)), next(epochs)
    for worker, assignment in zip(two_workers, wide.halves(epoch, first, second), strict=True):
        assignment.max_rows = 512
        worker.load(assignment)
    before = link(first, "b")
    prompt = [3 + i % 200 for i in range(300)]
    with processes.client(epoch, first, second) as client:
        alone = client.generate(prompt, 1)
    frames, payload, _ = (now - then for now, then in zip(link(first, "b"), before, strict=True))
    assert (frames, payload) == (2 + 1, 300 * 1024 * 4)
    release(epoch, first, second)
    epoch = next(epochs)
    first.load(wide.whole(epoch, first, max_rows=448))
    with processes.client(epoch, first) as client:
        assert client.generate(prompt, 1) == alone
    release(epoch, first)


@BOTH_WIRES
def test_a_step_that_cannot_be_ends_the_epoch_and_no_other(two_workers, processes, served, epochs):
    first, second = two_workers
    bad, good = next(epochs), next(epochs)
    load_halves(served, bad, first, second)
    load_halves(served, good, first, second)
    with processes.client(bad, first, second) as broken, processes.client(good, first, second) as whole:
        tokens = whole.generate(PROMPT, 3)
        broken.send([Run(1, 0, [5], [999], Outputs.LAST, Sampling())])
        fault = broken.get()
        assert isinstance(fault, Fault)
        assert (fault.node, fault.number) == ("a", 1)
        broken.send([Run(2, 0, [5], [0], Outputs.LAST, Sampling())])
        assert broken.get() == fault
        assert whole.generate(PROMPT, 3) == tokens
    release(good, first, second)


@EITHER_WIRE
def test_a_killed_worker_is_noticed_by_both_sides(processes, served, tmp_path, wire):
    with processes.running(*(processes.Worker(name, tmp_path, wire=wire) for name in "ab")) as (first, second):
        load_halves(served, 1, first, second)
        with processes.client(1, first, second) as client:
            client.generate(PROMPT, 2)
            os.kill(second.pid, signal.SIGKILL)
            seen = {type(item): item for item in (client.get(5.0), client.get(5.0))}
        broken, fault = seen[processes.Broken], seen[Fault]
        assert (broken.node, broken.status) == ("b", grpc.StatusCode.UNAVAILABLE)
        assert fault.node == "b"
        assert "node 'a'" in fault.reason and "\n" not in fault.reason
        # What is left goes on alone.
        first.release(1)
        first.load(served.whole(2, first))
        with processes.client(2, first) as client:
            assert len(client.generate(PROMPT, 2)) == 2


@pytest.mark.parametrize("how", ["stdin", "SIGTERM"])
@pytest.mark.parametrize("when", ["starting", "serving", "in the middle of a stream"])
def test_the_end_of_a_worker(processes, served, tmp_path, how, when):
    worker = processes.Worker("a", tmp_path)
    client = None
    if when != "starting":
        worker.load(served.whole(1, worker))
    if when == "in the middle of a stream":
        client = processes.Client(1, worker)
        client.generate(PROMPT, 2)
    worker.process.close_stdin() if how == "stdin" else os.kill(worker.pid, signal.SIGTERM)
    assert processes.wait_for(lambda: worker.process.exit_code() is not None, 3)
    assert worker.process.exit_code() == 0
    assert not psutil.pid_exists(worker.pid)
    if client is not None:
        client.close()
    worker.close()


@EITHER_WIRE
def test_a_stopped_worker_holds_nobody_up(processes, served, tmp_path, wire):
    with processes.running(processes.Worker("a", tmp_path, wire=wire)) as (worker,):
        worker.load(served.whole(1, worker))
        with processes.client(1, worker) as client:
            client.generate(PROMPT, 1)
            os.kill(worker.pid, signal.SIGSTOP)
            assert processes.wait_for(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, 5)
            hello = lambda: worker.stub.Hello(pb.HelloRequest(protocol=PROTOCOL), timeout=0.5)  # noqa: E731
            assert processes.refusal(hello)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
            # Sending goes on as long as there is room, then says so in the time it was given.
            big = Run(7, 0, [1] * 60_000, [], Outputs.NONE)
            with pytest.raises(LinkError, match="took no frame for"):
                for number in range(2, 400):
                    client.links[0].send(_step(1, number, big), 0.3)
            os.kill(worker.pid, signal.SIGCONT)
        assert worker.process.stop() == 0


@EITHER_WIRE
def test_a_flood_is_held_up_not_stored(processes, served, tmp_path, wire):
    # The first step takes longer than the test.
    slow = {"device": {"flops": 1e3, "memory_bandwidth": 1e3}}
    with processes.running(processes.Worker("a", tmp_path, emulate=slow, wire=wire)) as (worker,):
        worker.load(served.whole(1, worker))
        resident = psutil.Process(worker.pid).memory_info().rss
        with processes.client(1, worker) as client:
            big = Run(7, 0, [1] * 60_000, [], Outputs.NONE)
            with pytest.raises(LinkError, match="took no frame for"):
                for number in range(1, 3000):
                    run = Run(1, 0, PROMPT, [0], Outputs.LAST) if number == 1 else big
                    client.links[0].send(_step(1, number, run), 1.0)
            assert psutil.Process(worker.pid).memory_info().rss < resident + (128 << 20)
        assert worker.process.stop() == 0


def _step(epoch, number, run):
    return step_frame(epoch, Step(number, [run]))


@pytest.mark.parametrize(
    ("token", "flags", "words"),
    [
        ("", [], "token is empty"),
        ("t", ["--listen", "nowhere"], "cannot listen at nowhere"),
        ("t", ["--emulate", '{"device": {"flops": 0, "memory_bandwidth": 1}}'], "must be more than 0"),
        ("t", ["--emulate", '{"links": {"b": [-1, 0]}}'], "0 or more"),
        ("t", ["--emulate", "[]"], "not of the form"),
    ],
)
def test_what_a_worker_does_not_start_with(tmp_path, token, flags, words):
    command = [sys.executable, "-m", "potluck.worker", "--node", "a", "--cache", str(tmp_path), *flags]
    ended = subprocess.run(command, input=token + "\n", capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert words in ended.stderr and "Traceback" not in ended.stderr
    assert ended.stdout == ""
