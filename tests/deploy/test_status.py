"""`cluster status` where there is no server of ours; `tests/system/test_status.py` asks a real one."""

import http.server
import json
import socket
import threading

import pytest

from potluck.deploy.accuracy_text import outcome_lines
from potluck.deploy.status import StatusError, server_root


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
    assert "would hold" in last and "correct it" in last
