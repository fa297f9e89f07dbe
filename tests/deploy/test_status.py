"""`cluster status` where there is no server of ours; `tests/system/test_status.py` asks a real one."""

import http.server
import io
import json
import socket
import threading

import pytest
from rich.console import Console

from potluck.deploy.accuracy_text import outcome_lines
from potluck.deploy.status import StatusError, server_root
from potluck.deploy.status_page import status_page


def answering(code, body, kind="application/json"):
    """A handler that answers every request so."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *words):
            pass

    return Other


@pytest.fixture
def other_server():
    """other_server(code, body) -> the address of a server that is not ours."""
    running = []

    def start(code, body):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), answering(code, body))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        running.append((server, thread))
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def complaint(done):
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("typed", "root"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://box:81/v1/", "http://box:81"),
        ("https://box", "https://box"),
        ("http://box/behind/proxy/v1", "http://box/behind/proxy"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_addresses_as_people_type_them(typed, root):
    assert server_root(typed) == root


@pytest.mark.parametrize("typed", ["", "ftp://box", "http://", "http://box:99999", "http://[::1", "a b", "box:x", "ä"])
def test_what_is_no_address(typed):
    with pytest.raises(StatusError, match="write http://HOST:PORT"):
        server_root(typed)


def test_nobody_listens(cluster):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        line = complaint(cluster("status", f"127.0.0.1:{taken.getsockname()[1]}"))
    assert "nothing answers" in line and "refused" in line and "cluster serve" in line


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (200, "<html>a router</html>"),
        (200, "[]"),
        (200, json.dumps({"name": "another"})),
        (404, "{}"),
        (500, "no JSON"),
        (302, ""),
    ],
)
def test_something_else_answers(cluster, other_server, code, body):
    assert "is no Potluck server" in complaint(cluster("status", other_server(code, body)))


def test_another_version_answers(cluster, other_server):
    address = other_server(200, json.dumps({"name": "potluck", "shape": "unknown"}))
    assert "another version" in complaint(cluster("status", address))
    assert json.loads(cluster("status", address, "--json").stdout)["shape"] == "unknown"


def test_what_is_no_http_answers(cluster):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_talk_nonsense, args=(listening,))
        thread.start()
        line = complaint(cluster("status", f"127.0.0.1:{listening.getsockname()[1]}"))
        thread.join()
    assert "is no Potluck server" in line


def _talk_nonsense(listening):
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


@pytest.mark.parametrize(
    ("outcome", "described", "words"),
    [
        ({"failure": "node 'a': gone"}, False, "node 'a': gone"),
        ({"gain": 0.25}, False, "25% less"),
        ({"explained": True}, False, "no other plan"),
        ({}, False, "does not explain"),
        ({}, True, "does not explain"),
    ],
)
def test_what_measuring_again_found_in_words(outcome, described, words):
    nothing = {"failure": "", "departures": [], "gain": 0.0, "explained": False}
    assert words in list(outcome_lines(nothing | outcome, described))[-1]


def test_a_description_that_is_wrong_is_to_be_corrected():
    found = {"subject": "link a -> b", "quantity": "latency", "taken": 1e-3, "found": 5e-3}
    outcome = {"failure": "", "departures": [found], "gain": 0.0, "explained": True}
    first, last = outcome_lines(outcome, True)
    assert first == "link a -> b takes 5 ms, described as 1 ms"
    assert "explain the deviation" in last and "machines that are busy look slower, too" in last
    assert "correct the description only if this lasts" in last and "start again" not in last
    assert "do not explain" in list(outcome_lines(outcome | {"explained": False}, True))[-1]
    assert "nothing is to be done" in list(outcome_lines(outcome, False))[-1]


def test_what_is_hardly_off_has_no_sign_of_its_own():
    figures = {"time_to_first_token": {"predicted": 1.0, "measured": 1.0, "deviation": -0.004, "requests": 3}}
    assert "time to first token 1 s 1 s +0%" in page_of([], accuracy=figures | {"stages": []})


def test_one_figure_says_what_is_off():
    figure = {"predicted": 1.0, "measured": 1.5, "deviation": 0.66, "requests": 7}
    again = {"cause": "time_per_output_token", **figure, "outcome": None}
    stage = [{"node": "a", "parts": ["embedding", "head"]}]
    accuracy = {"time_to_first_token": figure, "time_per_output_token": figure, "stages": []}
    shown = page_of(stage, remeasured=again, accuracy=accuracy)
    assert "time per token 1 s 1.5 s +66%" in shown
    assert (
        "time per token is +66% off its prediction in the median of 7 requests; nodes and links are measured" in shown
    )
    outcome = {"failure": "", "departures": [], "gain": 0.0, "explained": False}
    shown = page_of(stage, remeasured=again | {"outcome": outcome}, accuracy=accuracy)
    assert "were measured again, since time per token was +66% off its prediction in the median of 7 requests:" in shown


GROUPED = [
    {
        "parts": ["embedding", "layers 0-3"],
        "shares": [
            {"node": "a", "kv_heads": "0-1", "ffn_columns": "0-63"},
            {"node": "b", "kv_heads": 2, "ffn_columns": "64-95", "residency": "streamed"},
        ],
    },
    {
        "parts": ["head"],
        "shares": [{"node": "a", "heads": "0-8", "vocabulary": "0-9"}, {"node": "b", "vocabulary": 10}],
    },
]


def page_of(stages, **told):
    """The page of two nodes that hold these stages."""
    spent = {"compute": 0.5, "wait": 0.2, "transfer": 0.05, "sums": 0.25, "stall_seconds": 0.0, "resident_bytes": 0}
    sizes = {"weight_bytes": 1, "kv_bytes": 1, "memory": 10}
    nodes = [{"node": name, "requests_arrive": name == "a", **spent, **sizes} for name in "ab"]
    queue = {"running": 0, "waiting": 0, "kv_used": 0.0, "tokens_per_second": 0.0}
    predicted = {"time_to_first_token": 1.0, "time_per_output_token": 0.1}
    status = {"model": "m", "ready": True, **queue, "fleet": "f", "stages": stages, "nodes": nodes}
    console = Console(width=160, file=io.StringIO())
    console.print(status_page(status | {"predicted": predicted, "accuracy": {"stages": []}, "described": True} | told))
    return " ".join(console.file.getvalue().split())


def test_shares_of_a_group_and_its_sums_are_shown_as_people_read_them():
    shown = page_of(GROUPED)
    assert "embedding, layers 0-3 (KV heads 0-1, FFN columns 0-63) | head (vocabulary rows 0-9)" in shown
    assert "embedding, layers 0-3 (KV head 2, FFN columns 64-95) from disk | head (vocabulary row 10)" in shown
    assert "node computing summing waiting sending stalled" in shown and "a * 50% 25% 20% 5% -" in shown
    assert "summing: with the others of its group" in shown


def test_without_a_group_there_are_no_sums():
    shown = page_of([{"node": "a", "parts": ["embedding", "layers 0-3"]}, {"node": "b", "parts": ["head"]}])
    assert "node computing waiting sending stalled" in shown and "summing" not in shown


def test_of_several_routes_everybodys_share_is_shown():
    stages = [{"route": number, "node": node, "parts": ["layers 0-3"]} for number, node in ((1, "a"), (2, "b"))]
    shown = page_of(stages)
    assert "route 1: layers 0-3" in shown and "route 2: layers 0-3" in shown
