"""Nodes that are lost: clear errors at once, then a plan over the nodes left, or a refusal with the reason."""

import asyncio
import shutil
import time

import psutil
import pytest

from potluck.coordinator import recovery
from potluck.coordinator.calls import CallError
from potluck.coordinator.deployment import DeploymentError
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import FabricError, LocalFabric, WorkerLaunch
from potluck.coordinator.generation import GenerationError
from potluck.coordinator.metrics import Metrics
from potluck.proto import cluster_pb2 as pb


@pytest.fixture
def homes(home, tiny_model, tmp_path):
    """homes(**settings) -> a started Home of a tiny model with four layers."""
    made = []

    def make(**settings):
        made.append(home.Home(tiny_model("llama3", 4), tmp_path, **settings))
        return made[-1].start()

    yield make
    for one in made:
        one.stop()
        assert psutil.wait_procs(one.processes.values(), 5)[1] == []


def dawdling(home, node="n0"):
    """Settings of a Home of which one node takes so long that a long request cannot end before it is cut short."""
    return {"emulate": {node: home.slow(1e8, 2e7)}}


async def read_to_the_error(stream):
    with pytest.raises(GenerationError) as ended:
        async for _ in stream:
            pass
    return ended.value, time.monotonic()


async def test_nodes_lost_one_after_the_other(homes, home):
    one = homes(rounds=2, **dawdling(home))
    (before,) = await one.texts(home.ask([4, 5, 6], 10))
    streams = [one.engine.submit([home.ask([number, 9], 480)])[0] for number in range(3, 7)]
    readers = [asyncio.create_task(read_to_the_error(stream)) for stream in streams]
    await home.eventually(lambda: one.engine.status().running == 4)
    killed = time.monotonic()
    one.kill("n1")
    for error, at in await asyncio.gather(*readers):
        assert at - killed < 5.0
        assert (error.status, "n1" in error.message, "send the request again" in error.message) == (503, True, True)
    refused = await one.refusal()
    assert (refused.status, refused.retry_after) == (503, 5)
    assert "planning anew" in refused.message

    await asyncio.to_thread(one.diary.until, "serving", 2)
    assert one.fabric.exits() == {"n1": -9}
    assert set(one.deployment.plan.nodes) == {"n0", "n2"}
    assert (await one.texts(home.ask([4, 5, 6], 10))) == [before]
    assert {node.node: node.alive for node in one.engine.status().nodes}["n1"] is False

    one.kill("n0")  # the engine's own, while nothing runs
    await asyncio.to_thread(one.diary.until, "serving", 3)
    assert (await one.texts(home.ask([4, 5, 6], 10))) == [before]

    one.kill("n2")
    await asyncio.to_thread(one.diary.until, "refused")
    refused = await one.refusal()
    assert (refused.status, refused.retry_after) == (503, 30)
    assert "no node is left" in refused.message
    assert not one.engine.status().ready
    assert "no node is left" in one.engine.status().reason


async def test_two_nodes_lost_at_once(homes, home):
    one = homes(excluded=frozenset({"n1"}))
    one.kill("n1", "n2")
    await asyncio.to_thread(one.diary.until, "serving", 2)
    assert set(one.deployment.plan.nodes) == {"n0"}
    assert len((await one.texts(home.ask([4, 5, 6], 10)))[0]) == 10


async def test_a_frozen_node_is_noticed_and_replaced(homes, home):
    """Its connections stand and its kernel acknowledges everything: only its silence tells."""
    one = homes(silent=2.0, **dawdling(home))
    (long,) = one.engine.submit([home.ask([4, 5, 6], 480)])
    reader = asyncio.create_task(read_to_the_error(long))
    await home.eventually(lambda: one.engine.status().running == 1)
    frozen = time.monotonic()
    one.processes["n1"].suspend()
    try:
        error, at = await reader
        assert at - frozen < 3 * 5.0
        assert "node 'n1' failed: it has not answered for 2 s" in error.message
        await asyncio.to_thread(one.diary.until, "serving", 2)
        assert set(one.deployment.plan.nodes) == {"n0", "n2"}
        assert len((await one.texts(home.ask([4, 5, 6], 10)))[0]) == 10
    finally:
        one.processes["n1"].resume()


async def test_a_load_on_a_dead_node_fails_at_once(homes, home):
    """A node may die between the question whether it is there and the load."""
    one = homes()
    one.kill("n1")
    begun = time.monotonic()
    with pytest.raises(CallError, match="node 'n1'"):
        await asyncio.to_thread(one.deployment._workers.callers.load, {"n1": pb.Assignment(epoch=9)}, lambda *_: None)
    assert time.monotonic() - begun < 5.0


async def test_a_node_that_cannot_load_its_share_is_left_out(homes, home, tmp_path):
    """Its disk is full, as far as it can tell: where its shard files were nothing can be written any more."""
    one = homes()
    (before,) = await one.texts(home.ask([4, 5, 6], 10))
    shutil.rmtree(tmp_path / "n1" / "shards")
    (tmp_path / "n1" / "shards").write_text("")
    one.kill("n2")
    await asyncio.to_thread(one.diary.until, "serving", 2)
    assert set(one.deployment.plan.nodes) == {"n0"}
    _, node, reason = [entry for entry in one.diary.entries if entry[0] == "lost"][-1]
    assert node == "n1" and "cannot be written" in reason and "\n" not in reason
    assert (await one.texts(home.ask([4, 5, 6], 10))) == [before]


async def test_a_spare_that_dies_is_told_and_disturbs_nobody(homes, home):
    """With one node able to hold everything, the others hold nothing."""
    one = homes(spread="fewest")
    assert one.deployment.plan.nodes == ("n0",)
    (before,) = await one.texts(home.ask([4, 5, 6], 10))
    one.kill("n2")
    told = await asyncio.to_thread(one.diary.until, "spare_lost")
    assert told == ("spare_lost", "n2", "its worker ended (exit code -9)")
    assert [(node.node, node.alive) for node in one.engine.status().nodes if not node.alive] == [("n2", False)]
    assert await one.texts(home.ask([4, 5, 6], 10)) == [before]
    await asyncio.sleep(1.5)
    assert [entry[0] for entry in one.diary.entries].count("spare_lost") == 1
    assert not [entry for entry in one.diary.entries if entry[0] in ("lost", "refused")]
    one.kill("n0")
    await asyncio.to_thread(one.diary.until, "serving", 2)
    assert one.deployment.plan.nodes == ("n1",)
    assert await one.texts(home.ask([4, 5, 6], 10)) == [before]


async def test_what_no_longer_fits_is_refused_with_the_reason(homes, home):
    # 64 MiB are set aside for a worker; four layers of KV take 32 MiB, which one node alone does not have.
    one = homes(nodes=2, memory=(64 + 24) << 20, kv_tokens=1 << 15)
    assert len((await one.texts(home.ask([4, 5, 6], 10)))[0]) == 10
    one.kill("n1")
    _, reason = await asyncio.to_thread(one.diary.until, "refused")
    refused = await one.refusal()
    assert refused.message == reason
    assert "node 'n1' was lost and the nodes left cannot serve the model" in reason
    assert "MiB" in reason


async def test_after_plans_that_failed_in_a_row_it_tries_again_later(homes, home, monkeypatch):
    monkeypatch.setattr(recovery, "_RETRY_SECONDS", 0.5)
    one = homes(nodes=1)
    epochs, tries = one.deployment._epochs, []
    serve = epochs.serve

    def failing(*asked):
        tries.append(asked)
        if len(tries) <= 3:
            raise CallError("n0", "out of luck")
        serve(*asked)

    monkeypatch.setattr(epochs, "serve", failing)
    epochs.current.driver.fail(None, "bad luck")
    _, reason = await asyncio.to_thread(one.diary.until, "refused")
    assert "3 plans in a row failed" in reason
    assert "out of luck" in reason
    await asyncio.to_thread(one.diary.until, "serving", 2)
    assert len(tries) == 4
    assert len((await one.texts(home.ask([4, 5, 6], 10)))[0]) == 10


async def test_a_drain_lets_running_requests_finish_and_ends_the_rest(homes, home):
    one = homes(nodes=1)
    (short,) = one.engine.submit([home.ask([4, 5, 6], 30)])
    draining = asyncio.create_task(asyncio.to_thread(one.deployment.drain, 20.0))
    await home.eventually(lambda: not one.engine.status().ready)
    assert (await one.refusal()).message == "the server is shutting down"
    assert len([drawn async for drawn in short]) == 30
    await draining


async def test_a_drain_ends_what_takes_too_long(homes, home):
    one = homes(nodes=1, **dawdling(home))
    (long,) = one.engine.submit([home.ask([4, 5, 6], 500)])
    reader = asyncio.create_task(read_to_the_error(long))
    await asyncio.to_thread(one.deployment.drain, 0.1)
    error, _ = await reader
    assert "shut down before the answer was complete" in error.message


def test_a_worker_that_does_not_start_is_named_with_its_last_words(tmp_path):
    (tmp_path / "log").write_text("words of an earlier run\n")
    good = WorkerLaunch("good", str(tmp_path / "good"), log=str(tmp_path / "good.log"))
    bad = WorkerLaunch("bad", str(tmp_path / "bad"), listen="203.0.113.1:0", log=str(tmp_path / "log"))
    fabric = LocalFabric([good, bad])
    with pytest.raises(FabricError, match=r"worker 'bad' .*cannot listen at 203\.0\.113\.1:0") as failure:
        fabric.start("token")
    assert "earlier run" not in str(failure.value)
    assert fabric.exits() == {}


def test_a_worker_that_refuses_to_load_is_named(home, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("llama3", 4), tmp_path / "model")
    one = home.Home(folder, tmp_path, nodes=1)
    shutil.rmtree(folder)
    try:
        with pytest.raises(DeploymentError, match="node 'n0'"):
            one.deployment.start(one.diary)
    finally:
        one.stop()
    assert one.fabric.exits() == {}


def test_an_engine_that_was_never_started_refuses_politely():
    engine = ServingEngine("tiny", 512, Metrics())
    status = engine.status()
    assert (status.ready, status.reason) == (False, "the model is loading")
