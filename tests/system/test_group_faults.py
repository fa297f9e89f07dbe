"""`cluster serve` with a plan of groups: the same text and counts as the formulas over HTTP, and what happens when a
member dies, freezes or sends garbage while it answers."""

import os
import signal
import threading
import time

import pytest

from potluck.models.open import read_spec
from potluck.planner.agreement import Agreement
from potluck.planner.all_reduce import Algorithm
from potluck.planner.plan_file import plan_from_data
from potluck.planner.sums import stage_traffic, sums_per_step
from potluck.planner.transfers import link_bytes
from potluck.planner.yaml_text import read_yaml
from potluck.proto.step import Outputs, Run, Step

# In every worker of gamma: parts of sums are preceded by garbage once a file is there.
GARBAGE = """
import contextlib
import sys
from pathlib import Path

if "potluck.worker" in sys.orig_argv and "gamma" in sys.orig_argv:
    from potluck.proto import member_link

    honest = member_link.MemberLink.start

    def start(link, payload):
        if Path({flag!r}).exists():
            # Who was sent some may have ended the link already.
            with contextlib.suppress(OSError):
                link._socket.send(b"\\xff" * 200)
        honest(link, payload)

    member_link.MemberLink.start = start
"""


def group(algorithm):
    """Both ends with the first node, all layers with three."""
    layers = (
        f"{{parts: layers 0-5, nodes: [alpha, beta, gamma], split: [2, 1, 1], all_reduce: {{algorithm: {algorithm}}}}}"
    )
    return f"[{{node: alpha, parts: embedding}}, {layers}, {{node: alpha, parts: head}}]"


HYBRID = """[{node: alpha, parts: [embedding, layers 0-1]}, {parts: layers 2-3, nodes: [beta, gamma], split: [1, 1]},
  {node: gamma, parts: layers 4-5}, {node: alpha, parts: head}]"""


def plan_text(stages):
    return f"model: tiny\ndtype: float32\nkv_tokens: 4096\nstages: {stages}\n"


@pytest.fixture
def serve(start, tmp_path):
    """serve(stages) -> a listening `Served` with this plan."""
    made = []

    def make(stages):
        (tmp_path / "plan.yaml").write_text(plan_text(stages))
        made.append(start(tmp_path, "--plan", str(tmp_path / "plan.yaml")))
        return made[-1].listening()

    yield make
    for one in made:
        one.close()


@pytest.fixture
def garbage(tmp_path, monkeypatch):
    """Called, it makes gamma send garbage from then on."""
    flag = tmp_path / "garbage"
    (tmp_path / "sitecustomize.py").write_text(GARBAGE.format(flag=str(flag)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return flag.touch


def figures(server, name):
    """A metric's values by its labels."""
    found = {}
    for line in server.client.get("/metrics").text.splitlines():
        if line.startswith(f"potluck_{name}{{"):
            labels, value = line.removeprefix(f"potluck_{name}").rsplit(" ", 1)
            found[labels] = float(value)
    return found


def test_metrics_count_what_the_formulas_say(serve, tiny_model):
    """Of one completion: a prompt of four tokens, then seven of one."""
    spec = read_spec(tiny_model("llama3", 6))
    route = plan_from_data(read_yaml(plan_text(group("direct"))), spec).routes[0]
    steps = [Step(1, [Run(1, 0, [5, 6, 7, 8], [0], Outputs.LAST)])]
    steps += [Step(2 + place, [Run(1, 4 + place, [9], [], Outputs.LAST)]) for place in range(7)]
    wanted = {}
    for step in steps:
        agreed = Agreement(reductions=((0, Algorithm.DIRECT),))
        for traffic in (link_bytes(route, step, 4 * spec.hidden), stage_traffic(route.stages[1], step, spec, agreed)):
            for (source, target), nbytes in traffic.items():
                key = f'{{source="{source}",target="{target}"}}'
                wanted[key] = wanted.get(key, 0) + nbytes
    server = serve(group("direct"))
    assert server.complete(ignore_eos=True).status_code == 200

    def counted():
        sent = figures(server, "link_payload_bytes")
        sums = figures(server, "node_sums")
        return {key: sent.get(key, 0.0) for key in wanted}, sums

    summed = {f'{{node="{node}"}}': sums_per_step(route.stages[1]) * 8.0 for node in ("alpha", "beta", "gamma")}
    deadline = time.monotonic() + 10
    while counted() != (wanted, summed) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert counted() == (wanted, summed)
    assert all(seconds > 0 for seconds in figures(server, "node_sum_seconds").values())


def streaming(server, tokens=450):
    """A long stream under way in a thread: the thread, its events, and a function that says when it ended."""
    events, flowing, ended = [], threading.Event(), []

    def seen(event):
        events.append(event)
        ended[:] = [time.monotonic()]
        if len(events) > 3:
            flowing.set()

    thread = threading.Thread(target=server.stream, args=(tokens, seen))
    thread.start()
    assert flowing.wait(30)
    return thread, events, lambda: ended[0]


def lose(server, victim, deed):
    """Do something to a node in the middle of an answer: the answer ends with an error that names it, within 5 s."""
    thread, events, ended = streaming(server)
    begun = time.monotonic()
    deed()
    thread.join(30)
    message = events[-2]["error"]["message"]
    assert events[-1] is None and victim in message, message
    assert ended() - begun < 5.0, message
    lost = server.until("lost")
    assert lost["node"] == victim and lost["reason"] in message
    return message


def signalling(process, number):
    return lambda: process.send_signal(number)


def text(server):
    answer = server.complete(max_tokens=24, ignore_eos=True)
    assert answer.status_code == 200
    return answer.json()["choices"][0]["text"]


@pytest.mark.parametrize(
    ("stages", "victim", "sign"),
    [
        (group("ring"), "gamma", signal.SIGKILL),
        # Members wait in a sum for this one; for that one nobody waits, but for the coordinator.
        (group("star"), "beta", signal.SIGSTOP),
        (HYBRID, "alpha", signal.SIGSTOP),
        pytest.param(group("direct"), "alpha", signal.SIGSTOP, marks=pytest.mark.exhaustive),
        pytest.param(group("direct"), "alpha", signal.SIGKILL, marks=pytest.mark.exhaustive),
        pytest.param(group("direct"), "gamma", signal.SIGSTOP, marks=pytest.mark.exhaustive),
        pytest.param(group("ring"), "beta", signal.SIGSTOP, marks=pytest.mark.exhaustive),
        pytest.param(HYBRID, "gamma", signal.SIGSTOP, marks=pytest.mark.exhaustive),
        pytest.param(HYBRID, "beta", signal.SIGKILL, marks=pytest.mark.exhaustive),
    ],
)
def test_a_lost_member_ends_the_answer_and_the_rest_serve_on(serve, stages, victim, sign):
    server = serve(stages)
    before = text(server)
    process = server.workers()[victim]
    try:
        lose(server, victim, signalling(process, sign))
        server.until("serving")
        assert text(server) == before
        alive = {node["node"]: node["alive"] for node in server.client.get("/health").json()["nodes"]}
        assert [node for node, lives in alive.items() if not lives] == [victim]
    finally:
        if process.is_running():
            process.send_signal(signal.SIGCONT)


def test_garbage_is_named_and_a_second_loss_survived(serve, garbage):
    """Whoever sent it still answers, so that it may be in the next plan, but forms no sums there."""
    server = serve(group("ring"))
    before, workers = text(server), server.workers()
    message = lose(server, "gamma", garbage)
    assert "something else than the part of a sum that was due" in message
    server.until("serving")
    assert text(server) == before
    lose(server, "beta", signalling(workers["beta"], signal.SIGKILL))
    server.until("serving")
    assert text(server) == before
    workers["alpha"].kill()
    workers["gamma"].kill()
    server.until("refused")
    answer = server.complete()
    assert answer.status_code == 503 and "no node is left" in answer.json()["error"]["message"]
