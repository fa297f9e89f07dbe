"""Predicted beside measured with real workers: who counts, what is said, and nodes that are not what they were."""

import asyncio
import time

import pytest

from potluck.coordinator import remeasure
from potluck.coordinator.generation import EngineStatus
from potluck.coordinator.measurements import Measurements
from potluck.deploy.status_page import status_page
from potluck.proto import cluster_pb2 as pb


@pytest.fixture
def homes(home, tiny_model, tmp_path, monkeypatch):
    """homes(model={}, stale=False, **settings) -> a started Home of two nodes."""
    monkeypatch.setattr(remeasure, "_QUIET_SECONDS", 0.3)
    made = []

    def make(model=(), stale=False, **settings):
        folder = tiny_model("llama3", 6, **dict(model))
        one = home.Home(folder, tmp_path, nodes=2, **settings)
        made.append(one)
        if stale:
            # What its nodes measured before one of them slowed down.
            monkeypatch.setattr(one.deployment._workers, "measure", lambda *_: one.fleet)
        return one.start()

    yield make
    for one in made:
        one.stop()


async def alone(one, home, count, tokens=8):
    for number in range(count):
        await one.texts(home.ask([number + 4, 5, 6], tokens))


def layers(plan, node):
    return sum(len(stage.layers) for stage in plan.routes[0].stages if stage.node == node)


async def test_only_requests_that_ran_alone_count(homes, home):
    one = homes()
    await alone(one, home, 2)
    await one.texts(home.ask([7, 8], 8), home.ask([9, 8], 8))
    pair = one.engine.submit([home.ask([5] * 20, 6, stream=number) for number in range(2)])
    for stream in pair:
        async for _ in stream:
            pass
    await alone(one, home, 1)
    comparison = (await asyncio.to_thread(one.diary.until, "compared"))[1]
    assert (comparison.first.requests, comparison.each.requests) == (3, 3)
    assert sorted(node for _, node in comparison.stages) == [
        stage.node for stage in one.deployment.plan.routes[0].stages
    ]
    assert 0 < comparison.each.measured < comparison.first.measured * 20
    await alone(one, home, 7, tokens=2)  # too short to say anything about the time per token
    await home.eventually(lambda: one.deployment.report()["accuracy"]["time_to_first_token"]["requests"] == 10)
    assert one.deployment.report()["accuracy"]["time_per_output_token"]["requests"] == 3
    page = one.metrics.render().decode()
    assert "potluck_measured_time_per_output_token_seconds 0.0" in page
    assert not [entry for entry in one.diary.entries if entry[0] == "remeasuring"]


async def test_a_measured_node_that_slowed_down_gets_less(homes, home, tmp_path):
    """Requests are late, measuring finds out why, later starts will know, and the plan changes while nothing runs."""
    kept, wide = Measurements(tmp_path / "measured.json"), {"hidden_size": 256, "intermediate_size": 512}
    reply = pb.ProbeReply(flops=1e10, memory_bandwidth=1e10)
    kept.keep("bfloat16", dict.fromkeys(("n0", "n1", "another"), reply))
    measured = {"fleet": None, "measurements": kept, "remeasure_after": 5}
    one = homes(wide, True, emulate={"n1": home.slow(5e8, 1e9)}, serving=measured)
    before, fleet = one.deployment.plan, one.deployment.fleet
    await alone(one, home, 5)
    cause, figure = (await asyncio.to_thread(one.diary.until, "remeasuring"))[1:]
    assert cause in ("time_to_first_token", "time_per_output_token")
    assert figure.deviation > 0.3
    assert one.deployment.report()["remeasured"]["outcome"] is None
    outcome, described = (await asyncio.to_thread(one.diary.until, "remeasured"))[1:]
    assert (outcome.failure, described) == ("", False)
    assert ("node n1", "memory_bandwidth") in [(found.subject, found.quantity) for found in outcome.departures]
    assert outcome.gain > 0.1
    await asyncio.to_thread(one.diary.until, "serving", 2)
    assert len((await one.texts(home.ask([4, 5, 6], 8)))[0]) == 8
    assert layers(before, "n1") > layers(one.deployment.plan, "n1")
    assert [kept.known(node, "bfloat16") is None for node in ("n0", "n1", "another")] == [True, True, False]
    found = one.deployment.fleet
    assert found.node("n1").device.memory_bandwidth < found.node("n0").device.memory_bandwidth / 4
    assert found.node("n1").device.memory == fleet.node("n1").device.memory
    report = one.deployment.report()
    assert (report["epoch"], report["lost"]) == (2, {})
    assert not [entry for entry in one.diary.entries if entry[0] == "lost"]


async def test_a_described_node_that_is_slower_is_named_once(homes, home):
    """The description stays what it is, and what it does not explain is not asked about again."""
    one = homes(emulate={"n1": home.slow(1e8, 2e9)}, serving={"remeasure_after": 5})
    await alone(one, home, 5)
    outcome, described = (await asyncio.to_thread(one.diary.until, "remeasured"))[1:]
    assert described
    found = {node.name: node.device.flops for node in outcome.fleet.nodes}
    assert found["n1"] < found["n0"] / 4
    assert outcome.better is None
    await alone(one, home, 6)
    await home.eventually(lambda: one.deployment.report()["accuracy"]["time_to_first_token"]["requests"] == 10)
    assert len([entry for entry in one.diary.entries if entry[0] == "remeasuring"]) == 1
    report = one.deployment.report()
    assert report["epoch"] == 1
    assert report["remeasured"]["outcome"]["departures"]


async def test_a_node_lost_is_in_the_report(homes, home):
    one = homes()
    one.kill("n1")
    await asyncio.to_thread(one.diary.until, "serving", 2)
    report = one.deployment.report()
    assert "exit code -9" in report["lost"]["n1"]
    assert [node["node"] for node in report["nodes"]] == ["n0"]
    assert isinstance(one.engine.status(), EngineStatus)
    queue = {"model": "tiny", "ready": True, "reason": "", "running": 0, "waiting": 0, "kv_used": 0.0}
    assert status_page(report | queue | {"tokens_per_second": 0.0})


async def test_the_end_does_not_wait_for_measuring(homes, home, capfd):
    one = homes(emulate={"n1": home.slow(5e7, 2e9)}, serving={"remeasure_after": 5})
    await alone(one, home, 5)
    await asyncio.to_thread(one.diary.until, "remeasuring")
    await home.eventually(lambda: one.engine.measuring, 20.0)
    begun = time.monotonic()
    await asyncio.to_thread(one.stop)
    assert time.monotonic() - begun < 20.0
    await home.eventually(lambda: not one.engine.measuring)
    assert "Traceback" not in capfd.readouterr().err
