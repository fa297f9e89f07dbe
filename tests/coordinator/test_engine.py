"""The engine without workers: what it answers when no epoch is in force, and streams from other threads."""

import asyncio
import threading

import pytest

from potluck.coordinator.driver import Driver, Observers
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.generation import Drawn, GenerationError
from potluck.coordinator.metrics import Metrics
from potluck.coordinator.scheduler.scheduler import Limits, Scheduler
from potluck.coordinator.streams import Stream


@pytest.fixture
def engine():
    return ServingEngine("tiny", 64, Metrics())


def driver_of(engine, failures):
    observers = Observers(engine.delivered, engine.stepped, lambda node, reason: failures.append((node, reason)))
    return Driver(1, Scheduler(Limits(8, 4, 64, 16, 1)), {"n0": 0}, observers)


async def test_before_it_serves_it_says_so(engine, paper):
    status = engine.status()
    assert (status.ready, status.reason) == (False, "the model is loading")
    with pytest.raises(GenerationError, match="the model is loading") as refused:
        engine.submit([paper.generation([1])])
    assert (refused.value.status, refused.value.retry_after) == (503, 5)


async def test_an_epoch_that_failed_before_it_was_attached_takes_no_requests(engine, paper):
    failures = []
    driver = driver_of(engine, failures)
    driver.fail("n1", "it burned")
    driver.fail("n2", "that too")
    assert failures == [("n1", "it burned")]
    engine.attach(driver)
    with pytest.raises(GenerationError, match="send the request again") as refused:
        engine.submit([paper.generation([1])])
    assert refused.value.status == 503
    assert not engine.busy


async def test_closed_doors_show_in_the_status(engine):
    engine.attach(driver_of(engine, []))
    assert engine.status().ready
    engine.close_doors("the server is shutting down")
    assert (engine.status().ready, engine.status().reason) == (False, "the server is shutting down")


async def test_a_stream_hands_on_what_another_thread_brings():
    loop, cancelled = asyncio.get_running_loop(), []
    stream = Stream(3, cancelled.append)

    def bring():
        for item in (Drawn(5), Drawn(6, finish="stop")):
            loop.call_soon_threadsafe(stream.push, item)

    threading.Thread(target=bring).start()
    assert [drawn.token async for drawn in stream] == [5, 6]
    stream.cancel()
    assert cancelled == []


async def test_a_cancelled_stream_ends_even_while_somebody_waits_for_it():
    cancelled = []
    stream = Stream(3, cancelled.append)

    async def read():
        return [drawn async for drawn in stream]

    waiting = asyncio.create_task(read())
    await asyncio.sleep(0)
    stream.cancel()
    stream.cancel()
    assert await asyncio.wait_for(waiting, 1) == []
    assert cancelled == [3]


async def test_a_failed_stream_raises_and_is_over():
    stream = Stream(3, lambda number: pytest.fail("it was cancelled"))
    stream.push(Drawn(1))
    stream.push(GenerationError("the node left"))
    with pytest.raises(GenerationError, match="the node left"):
        async for drawn in stream:
            assert drawn.token == 1
    stream.cancel()
