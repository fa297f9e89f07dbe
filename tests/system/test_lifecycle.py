"""From start to end of `cluster serve`: many streams, clients that leave, signals, nothing left behind."""

import asyncio
import signal
import threading
import time

import httpx
import pytest


@pytest.fixture(scope="module")
def server(start, tmp_path_factory):
    server = start(tmp_path_factory.mktemp("served"))
    yield server.listening()
    server.close()


@pytest.fixture
def fresh(start, tmp_path):
    server = start(tmp_path)
    yield server
    server.close()


async def last_line(client, server, number):
    body = {"model": server.model, "prompt": [4 + number % 50, 6, 7], "max_tokens": 24, "stream": True, "seed": number}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    return lines[-1]


def test_64_streams_all_end_with_done(server):
    async def all_of_them():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(last_line(client, server, number) for number in range(64)))

    assert set(asyncio.run(all_of_them())) == {"data: [DONE]"}


def left_early(server):
    """How many sequences ended because whoever asked for them left."""
    page = server.client.get("/metrics").text
    return sum(float(line.split()[1]) for line in page.splitlines() if "sequences_total" in line and "cancel" in line)


def test_a_client_that_leaves_frees_its_kv(server):
    before = left_early(server)
    body = {"model": server.model, "prompt": [5] * 100, "max_tokens": 400, "stream": True, "ignore_eos": True}
    with server.client.stream("POST", "/v1/completions", json=body) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number > 6:
                # Before the loop ends: with its iterator the connection is closed.
                assert server.client.get("/health").json()["kv_used"] > 0
                break
    left = time.monotonic()
    while server.client.get("/health").json()["kv_used"] > 0:
        assert time.monotonic() - left < 20.0
        time.sleep(0.05)
    # Not by itself, after 400 tokens.
    assert left_early(server) == before + 1
    assert server.complete().status_code == 200


def test_metrics_tell_where_the_time_went(server):
    assert server.complete().status_code == 200
    page = server.client.get("/metrics").text
    for name in ("time_to_first_token_seconds_count", "stage_seconds_total", "transfer_seconds_total", "link_frames"):
        assert f"potluck_{name}" in page


def test_sigterm_lets_running_answers_finish_and_leaves_nothing(fresh, served):
    server = fresh.listening()
    workers = list(server.workers().values())
    assert len(workers) == 3
    flowing, events = threading.Event(), []

    def seen(event):
        events.append(event)
        flowing.set()

    thread = threading.Thread(target=server.stream, args=(120, seen))
    thread.start()
    assert flowing.wait(20)
    assert server.end() == 0
    thread.join(5)
    assert events[-1] is None
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert served.gone(workers, 3)
    assert "Traceback" not in server.complaint()


def test_a_second_signal_cuts_answers_short(fresh, served):
    server = fresh.listening()
    workers = list(server.workers().values())
    flowing, events = threading.Event(), []

    def seen(event):
        events.append(event)
        flowing.set()

    thread = threading.Thread(target=server.stream, args=(450, seen))
    thread.start()
    assert flowing.wait(20)
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert server.end(signal.SIGINT, 10) == 0
    thread.join(5)
    assert events[-1] is None
    assert "shut down" in events[-2]["error"]["message"]
    assert served.gone(workers, 3)


def test_sigterm_while_starting(fresh, served):
    fresh.until("phase")
    deadline = time.monotonic() + 10
    while not (workers := list(fresh.workers().values())):
        assert time.monotonic() < deadline
    assert fresh.end(seconds=15) != 0
    assert served.gone(workers, 3)
    assert "Traceback" not in fresh.complaint()


def test_workers_end_with_a_killed_server(fresh, served):
    workers = list(fresh.listening().workers().values())
    fresh.end(signal.SIGKILL)
    assert served.gone(workers, 5)


def test_a_port_in_use_is_said_before_anything_starts(server, start, tmp_path):
    port = str(server.client.base_url.port)
    second = start(tmp_path, "--port", port)
    try:
        assert second.process.wait(20) == 1
        complaint = second.complaint()
        assert f"port {port}" in complaint
        assert len(complaint.strip().splitlines()) == 1
    finally:
        second.close()
