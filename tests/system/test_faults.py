"""Workers that die or hang while requests run: clear errors in time, and a server that goes on."""

import threading
import time

import pytest


@pytest.fixture
def serve(start, tmp_path):
    """serve(*flags) -> a listening `Served`."""
    made = []

    def make(*flags):
        made.append(start(tmp_path, *flags))
        return made[-1].listening()

    yield make
    for one in made:
        one.close()


def start_streams(server, count, tokens):
    """Streams that are all under way, each in a thread: (threads, their events, when each got its last event)."""
    results, ends, flowing = [[] for _ in range(count)], [0.0] * count, [threading.Event() for _ in range(count)]

    def run(place):
        def seen(event):
            results[place].append(event)
            ends[place] = time.monotonic()
            if len(results[place]) > 3:
                flowing[place].set()

        server.stream(tokens, seen)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for event in flowing:
        assert event.wait(30)
    return threads, results, ends


@pytest.mark.parametrize("victim", ["beta", "alpha"])
def test_a_killed_worker_ends_running_requests_and_the_rest_serve_on(serve, victim):
    server = serve()
    threads, results, ends = start_streams(server, 4, 400)
    killed = time.monotonic()
    server.workers()[victim].kill()
    for thread in threads:
        thread.join(20)
    for events, end in zip(results, ends, strict=True):
        assert end - killed < 5.0
        assert events[-1] is None
        assert victim in events[-2]["error"]["message"]
    server.until("lost")
    server.until("serving")
    assert server.complete().status_code == 200
    assert {node["node"]: node["alive"] for node in server.client.get("/health").json()["nodes"]}[victim] is False


def test_until_nothing_is_left(serve):
    server = serve()
    for process in server.workers().values():
        process.kill()
    server.until("refused")
    answer = server.complete()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "no node is left" in answer.json()["error"]["message"]
    assert server.client.get("/health").status_code == 503


def test_a_stopped_worker_counts_as_lost_after_the_deadline(serve):
    server = serve("--step-seconds", "3")
    threads, results, _ = start_streams(server, 1, 450)
    stopped = server.workers()["gamma"]
    stopped.suspend()
    began = time.monotonic()
    threads[0].join(30)
    assert time.monotonic() - began < 9 * server.time_scale
    # A machine that must stretch the fleet's time gives its steps as much longer.
    limit = 3 * server.time_scale
    assert f"no answer for {limit:.0f} s" in results[0][-2]["error"]["message"]
    server.until("serving")
    assert server.complete().status_code == 200
    stopped.kill()


def test_a_worker_killed_while_idle_is_noticed(serve):
    server = serve()
    server.workers()["gamma"].kill()
    assert server.until("lost", 5)["node"] == "gamma"
    server.until("serving")
    assert server.complete().status_code == 200
