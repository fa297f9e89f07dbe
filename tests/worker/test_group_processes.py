"""Groups of real worker processes: the same text, and what happens when a member dies, freezes or talks nonsense."""

import os
import signal
import socket
import time

import pytest

from potluck.proto.stream import StreamHead
from potluck.proto.tcp import greet

PARTS = (1, 1, 2)


@pytest.fixture(scope="module")
def big(processes, tiny_model):
    """The model with eight KV heads that groups split."""
    return processes.Model(tiny_model("llama2", 4, num_attention_heads=8, num_key_value_heads=8))


@pytest.fixture(scope="module")
def big_text(tiny_oracle, processes):
    """What it says, long enough that something can happen meanwhile."""
    oracle, tokens = tiny_oracle("llama2", 4, num_attention_heads=8, num_key_value_heads=8), []
    for _ in range(8):
        tokens.append(int(oracle.logprobs([*processes.PROMPT, *tokens])[-1].argmax()))
    return tokens


@pytest.fixture
def three(processes, tmp_path):
    """Three processes of which a test may lose some."""
    with processes.running(*(processes.Worker(name, tmp_path) for name in "abc")) as workers:
        yield workers


def load(workers, assignments):
    for worker, assignment in zip(workers, assignments, strict=True):
        worker.load(assignment)


def cuts(in_group, model, parts=PARTS):
    return in_group.cuts_of(model.spec, parts)


@pytest.mark.parametrize("algorithm", ["direct", "star", "ring"])
def test_processes_say_what_transformers_says(processes, in_group, two_workers, epochs, big, big_text, algorithm):
    epoch = next(epochs)
    load(two_workers, big.grouped(epoch, two_workers, cuts(in_group, big, (5, 3)), algorithm))
    before = [worker.status() for worker in two_workers]
    with processes.client(epoch, *two_workers, entries=2) as client:
        assert client.generate(processes.PROMPT, len(big_text)) == big_text
    after = [worker.status() for worker in two_workers]
    steps = len(big_text)
    assert [end.sums - begin.sums for begin, end in zip(before, after, strict=True)] == [steps * (2 * 4 + 2)] * 2
    assert all(end.sum_seconds > begin.sum_seconds for begin, end in zip(before, after, strict=True))
    for worker in two_workers:
        worker.release(epoch)


def _fault(client, deed, processes):
    """The first thing heard after a deed in the middle of a generation, and the seconds until then."""
    client.generate(processes.PROMPT, 2)
    deed()
    begun = time.monotonic()
    try:
        client.generate(processes.PROMPT, 16, sequence=2)
    except AttributeError as error:
        return error.obj, time.monotonic() - begun
    raise AssertionError("the generation went on")


@pytest.mark.parametrize(
    ("algorithm", "sign"), [("direct", signal.SIGKILL), ("star", signal.SIGSTOP), ("ring", signal.SIGSTOP)]
)
def test_a_lost_member_is_named_in_time(processes, in_group, three, big, big_text, sign, algorithm):
    """Within 5 s, and the others go on serving: each runs the whole model afterwards."""
    load(three, big.grouped(1, three, cuts(in_group, big), algorithm))
    with processes.client(1, *three, entries=3) as client:
        heard, seconds = _fault(client, lambda: os.kill(three[2].pid, sign), processes)
    assert heard.node == "c" and seconds < 5.0
    for worker in three[:2]:
        worker.release(1)
        worker.load(big.whole(2, worker))
        with processes.client(2, worker) as alone:
            assert alone.generate(processes.PROMPT, len(big_text)) == big_text
    os.kill(three[2].pid, signal.SIGCONT) if sign == signal.SIGSTOP else None


def test_a_stranger_cannot_join_a_group(processes, in_group, two_workers, epochs, big, big_text):
    """Neither without the token, nor as somebody who is no member, nor in place of one that is there."""
    epoch = next(epochs)
    load(two_workers, big.grouped(epoch, two_workers, cuts(in_group, big, (1, 1))))
    with processes.client(epoch, *two_workers, entries=2) as client:
        client.generate(processes.PROMPT, 2)
        for name, token in (("a", "wrong" * 8), ("mallory", processes.TOKEN), ("a", processes.TOKEN)):
            with socket.create_connection(("127.0.0.1", two_workers[1].data_port), timeout=5) as sock:
                try:
                    greet(sock, StreamHead(name, "member", epoch), token)
                    sock.sendall(b"\xff" * 4096)
                    assert not sock.recv(1)
                except Exception as error:  # noqa: BLE001 - refused in one way or another
                    assert str(error)
        assert client.generate(processes.PROMPT, len(big_text), sequence=3) == big_text
    for worker in two_workers:
        worker.release(epoch)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nodes": ["a", "a"]}, "each once"),
        ({"nodes": ["a", "x"]}, "no peer"),
        ({"wire": "float16"}, "cannot travel"),
        ({"first_head": 3, "end_head": 3}, "heads"),
        ({"end_column": 1000}, "columns"),
        ({"end_rows": [320, 320]}, "rows"),
        ({"first_rows": [0]}, "rows"),
        ({"reductions": []}, "any size"),
        ({"wire": "int8-feedback", "pieces": 2}, "pieces do not go together"),
        ({"reductions": [("tree", 0)]}, "tree"),
    ],
)
def test_groups_that_could_not_work_are_refused(processes, in_group, two_workers, epochs, big, change, reason):
    assignment = big.grouped(next(epochs), two_workers, cuts(in_group, big, (1, 1)))[0]
    group = assignment.windows[0].group
    for field, value in change.items():
        if field == "reductions":
            del group.reductions[:]
            for algorithm, most in value:
                group.reductions.add(most_bytes=most, algorithm=algorithm)
        elif isinstance(value, list):
            del getattr(group, field)[:]
            getattr(group, field).extend(value)
        else:
            setattr(group, field, value)
    _, detail = processes.refusal(lambda: two_workers[0].load(assignment))
    assert reason in detail
