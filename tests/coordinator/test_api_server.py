"""The web server: its port, clients that leave or dawdle, its end, and what it counts."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from potluck.coordinator.api.http_protocol import DeadlineProtocol
from potluck.coordinator.api.server import CannotBind, PortInUse, bind

MODEL = "tests/tiny"
LONG = {"model": MODEL, "prompt": "Hi", "max_tokens": 500, "n": 3}


async def until(condition, seconds=1.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def raw_post(port, body):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    await writer.drain()
    return reader, writer


def test_a_port_in_use_is_one_line():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} of 127.0.0.1 is in use") as failed:
            bind("127.0.0.1", port)
        assert "\n" not in str(failed.value)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no such host", 80)])
def test_an_address_that_is_not_here_is_one_line(host, port):
    with pytest.raises(CannotBind, match="give an address of this machine") as failed:
        bind(host, port)
    assert not isinstance(failed.value, PortInUse)


def test_a_port_that_cannot_be_is_one_line():
    with pytest.raises(CannotBind, match="no port 70000"):
        bind("127.0.0.1", 70000)


def test_ipv6_and_brackets():
    with bind("[::1]", 0) as listening:
        assert listening.family == socket.AF_INET6


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("abrupt", [False, True])
async def test_a_client_that_leaves_frees_its_sequences(api_serve, api_says, stream, abrupt):
    async with api_serve(api_says("word", again=True, delay=0.02)) as server:
        reader, writer = await raw_post(server.port, {**LONG, "stream": stream})
        await until(lambda: len(server.engine.running) == 3)
        if stream:
            await reader.readuntil(b"word")
        if abrupt:
            writer.transport.abort()
        else:
            writer.close()
        await until(lambda: not server.engine.running)
        counted = (await server.http.get("/metrics")).text
        status = "200" if stream else "499"
        assert f'endpoint="/v1/completions",method="POST",status="{status}"}} 1.0' in counted


async def test_a_client_that_leaves_before_the_first_token(api_serve, api_says):
    async with api_serve(api_says("word", again=True, delay=30)) as server:
        _, writer = await raw_post(server.port, {**LONG, "stream": True})
        await until(lambda: len(server.engine.running) == 3)
        writer.close()
        await until(lambda: not server.engine.running)


async def test_a_client_that_does_not_read_is_left(api_serve, api_says):
    async with api_serve(api_says("word" * 50, again=True, context=10**6), write_timeout_s=0.3) as server:
        body = {**LONG, "max_tokens": 50_000, "n": 8, "stream": True}
        _, writer = await raw_post(server.port, body)
        writer.transport.pause_reading()
        await until(lambda: len(server.engine.running) == 8)
        await until(lambda: not server.engine.running, 20)
        writer.transport.abort()


async def test_a_head_that_never_ends_is_cut(api_serve, api_says, monkeypatch):
    monkeypatch.setattr(DeadlineProtocol, "head_timeout_s", 0.2)
    async with api_serve(api_says("x", delay=0.1)) as server:
        for begun in (b"", b"GET /health HTTP/1.1\r\nHost: local"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(begun)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        reader, writer = await raw_post(server.port, {"model": MODEL, "prompt": "Hi", "stream": True})
        await asyncio.wait_for(reader.readuntil(b"[DONE]"), 5)
        writer.write(b"\r\nGET /hea")
        await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_a_slow_answer_outlives_the_heads_deadline(api_serve, api_says, monkeypatch):
    monkeypatch.setattr(DeadlineProtocol, "head_timeout_s", 0.1)
    async with api_serve(api_says("one two three", delay=0.15)) as server:
        answer = await server.http.post("/v1/completions", json={"model": MODEL, "prompt": "Hi"})
        assert answer.json()["choices"][0]["text"] == "one two three"


async def test_an_idle_connection_is_kept_for_the_next_request(api_serve, api_says, monkeypatch):
    monkeypatch.setattr(DeadlineProtocol, "head_timeout_s", 0.1)
    async with api_serve(api_says("x")) as server:
        reader, writer = await raw_post(server.port, {"model": MODEL, "prompt": "Hi"})
        await asyncio.wait_for(reader.readuntil(b"}}"), 5)
        await asyncio.sleep(0.3)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


async def test_a_huge_head_is_refused(api_serve, api_says):
    async with api_serve(api_says("x")) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 4")
        writer.close()
        assert (await server.http.get("/health")).status_code == 200


async def test_the_end_lets_running_answers_finish(api_serve, api_says):
    async with api_serve(api_says("one two three", delay=0.05), grace_s=10) as server:
        reader, writer = await raw_post(server.port, {"model": MODEL, "prompt": "Hi", "stream": True})
        await until(lambda: server.engine.running)
    everything = await reader.read()
    assert b"[DONE]" in everything
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_the_end_cuts_what_does_not_finish(api_serve, api_says):
    async with api_serve(api_says("word", again=True, delay=0.05), grace_s=1) as server:
        _, writer = await raw_post(server.port, {**LONG, "stream": True})
        await until(lambda: len(server.engine.running) == 3)
    assert not server.engine.running
    writer.close()


async def test_requests_are_counted_by_route(api_serve, api_says):
    async with api_serve(api_says("x")) as server:
        for path in ("/v1/models/tests/tiny", "/made/up", "/v1/models/none"):
            await server.http.get(path)
        counted = (await server.http.get("/metrics")).text
        assert 'endpoint="/v1/models/{name:path}",method="GET",status="200"} 1.0' in counted
        assert 'endpoint="/v1/models/{name:path}",method="GET",status="404"} 1.0' in counted
        assert 'endpoint="other",method="GET",status="404"} 1.0' in counted
        assert "made" not in counted


async def test_status_has_the_queue_and_what_the_deployment_adds(api_serve, api_says):
    async with api_serve(api_says("x"), api_keys=("secret",)) as server:
        assert (await server.http.get("/status")).status_code == 401
        answer = await server.http.get("/status", headers={"Authorization": "Bearer secret"})
        assert answer.json() == {
            "name": "potluck",
            "model": MODEL,
            "context": 512,
            "ready": True,
            "reason": "",
            "running": 0,
            "waiting": 0,
            "kv_used": 0.0,
            "tokens_per_second": 0.0,
            "epoch": 3,
        }
        index = (await server.http.get("/")).json()
        assert (await server.http.get(index["status"])).status_code == 401
