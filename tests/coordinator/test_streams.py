"""Streams by themselves; that threads may bring the tokens is in test_engine.py."""

import asyncio

import pytest

from potluck.coordinator.generation import Drawn, GenerationError
from potluck.coordinator.streams import Stream


async def tokens_of(stream):
    return [drawn.token async for drawn in stream]


async def test_tokens_come_in_order_whether_they_wait_or_are_waited_for():
    stream = Stream(1, lambda number: pytest.fail("it was cancelled"))
    stream.push(Drawn(1))
    reading = asyncio.create_task(tokens_of(stream))
    for token in range(2, 40):
        stream.push(Drawn(token))
        if token % 3 == 0:
            await asyncio.sleep(0)
    assert not reading.done()
    stream.push(Drawn(40, finish="length"))
    assert await asyncio.wait_for(reading, 1) == list(range(1, 41))


async def test_a_message_without_a_token_is_handed_on():
    stream = Stream(1, lambda number: None)
    stream.push(Drawn(finish="length"))
    assert [drawn async for drawn in stream] == [Drawn(finish="length")]


async def test_nothing_is_read_after_it_was_cancelled():
    cancelled = []
    stream = Stream(7, cancelled.append)
    stream.push(Drawn(1))
    stream.push(Drawn(2, finish="stop"))
    stream.cancel()
    # A result that was on its way to the event loop.
    stream.push(Drawn(3))
    stream.push(GenerationError("the node left"))
    assert await asyncio.wait_for(tokens_of(stream), 1) == []
    assert cancelled == [7]


async def test_cancelling_between_two_tokens_ends_it_there():
    cancelled = []
    stream = Stream(7, cancelled.append)
    for token in (1, 2, 3):
        stream.push(Drawn(token))
    got = []
    async for drawn in stream:
        got.append(drawn.token)
        if drawn.token == 2:
            stream.cancel()
    assert (got, cancelled) == ([1, 2], [7])
