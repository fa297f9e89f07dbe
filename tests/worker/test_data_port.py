"""The port for frames over plain TCP, as a stranger meets it: as strict as the gRPC port, and as quiet for others."""

import contextlib
import socket
import threading
import time

import grpc
import psutil
import pytest

from potluck.proto.errors import FrameError, Refusal
from potluck.proto.frames import step_frame
from potluck.proto.link import LinkError, LinkTarget
from potluck.proto.step import Outputs, Run, Step
from potluck.proto.stream import StreamHead
from potluck.proto.tcp import PREFIX, Notice, admit, greet, message, notice, read_message
from potluck.proto.tcp_link import TcpLink

Code = grpc.StatusCode


class Head(StreamHead):
    """A head with entries that it should not have."""

    def metadata(self):
        return tuple((dict(super().metadata()) | ODD).items())


ODD = {}


def connect(worker):
    sock = socket.create_connection(("127.0.0.1", worker.data_port), timeout=20)
    return contextlib.closing(sock)


def refusal(sock):
    """The status in the notice that ends a stream."""
    with pytest.raises(Notice) as ended:
        while True:
            read_message(sock)
    assert "\n" not in ended.value.reason
    return ended.value.status


@pytest.mark.parametrize("role", ["coordinator", "worker"])
def test_bad_frames_end_their_own_stream(undisturbed, processes, bad_frame, role):
    worker, epoch = undisturbed
    make, expected = bad_frame
    resident = psutil.Process(worker.pid).memory_info().rss
    with connect(worker) as sock:
        greet(sock, StreamHead("stranger", role, epoch), processes.TOKEN)
        with contextlib.suppress(ConnectionError):
            for frame in make(epoch):
                sock.sendall(message(frame.header, frame.payload))
        assert refusal(sock) is expected
    assert psutil.Process(worker.pid).memory_info().rss < resident + (64 << 20)


def test_a_length_that_is_claimed_allocates_nothing(undisturbed, processes):
    worker, epoch = undisturbed
    resident = psutil.Process(worker.pid).memory_info().rss
    with connect(worker) as sock:
        greet(sock, StreamHead("stranger", "worker", epoch), processes.TOKEN)
        sock.sendall(PREFIX.pack(2**32 - 1, 2**32 - 1))
        assert refusal(sock) is Code.RESOURCE_EXHAUSTED
    assert psutil.Process(worker.pid).memory_info().rss < resident + (64 << 20)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("potluck-protocol", "9", Code.FAILED_PRECONDITION),
        ("potluck-epoch", "999999", Code.FAILED_PRECONDITION),
        ("potluck-epoch", "-1", Code.INVALID_ARGUMENT),
        ("potluck-role", "king", Code.INVALID_ARGUMENT),
        ("potluck-node", "", Code.INVALID_ARGUMENT),
    ],
)
def test_streams_with_a_bad_head(undisturbed, processes, monkeypatch, name, value, code):
    worker, epoch = undisturbed
    monkeypatch.setitem(ODD, name, value)
    with connect(worker) as sock, pytest.raises(Notice) as ended:
        greet(sock, Head("stranger", "worker", epoch), processes.TOKEN)
    assert ended.value.status is code


def test_no_stream_without_the_token(undisturbed):
    worker, epoch = undisturbed
    with connect(worker) as sock, pytest.raises(Notice) as ended:
        greet(sock, StreamHead("stranger", "coordinator", epoch), "u" * 32)
    assert ended.value.status is Code.UNAUTHENTICATED


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n" * 9, bytes(64), message(b"x" * 4000, b"y" * 2000)])
def test_whoever_does_not_greet_is_shown_out(undisturbed, words):
    worker, _ = undisturbed
    begun = time.monotonic()
    with connect(worker) as sock:
        sock.sendall(words)
        with contextlib.suppress(ConnectionError):
            while sock.recv(4096):
                pass
    assert time.monotonic() - begun < 3 * 5.0


def test_a_recorded_greeting_opens_nothing(undisturbed, processes):
    """The nonce makes a proof good for one stream only."""
    worker, epoch = undisturbed
    said = bytearray()

    class Recorder(socket.socket):
        def sendall(self, data):
            said.extend(data)
            super().sendall(data)

    with Recorder(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect(("127.0.0.1", worker.data_port))
        greet(sock, StreamHead("stranger", "worker", epoch), processes.TOKEN)
    with connect(worker) as sock:
        sock.recv(16, socket.MSG_WAITALL)
        sock.sendall(said)
        assert refusal(sock) is Code.UNAUTHENTICATED


def test_many_who_say_nothing_keep_nobody_out(undisturbed, processes):
    worker, epoch = undisturbed
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect(worker))
        sock = stack.enter_context(connect(worker))
        greet(sock, StreamHead("stranger", "worker", epoch), processes.TOKEN)


@pytest.mark.parametrize("end", [1, 9, 60])
def test_a_stream_cut_off_is_no_error(undisturbed, processes, end):
    worker, epoch = undisturbed
    frame = step_frame(epoch, Step(1, [Run(1, 0, [5], [0], Outputs.LAST)]))
    with connect(worker) as sock:
        greet(sock, StreamHead("stranger", "worker", epoch), processes.TOKEN)
        sock.sendall(message(frame.body * 9, b"")[:end])
    worker.status()
    assert "Traceback" not in worker.log.read_text()


class Impostor:
    """Someone else at the worker's port: `answer(sock)` is all it does."""

    def __init__(self, answer):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        sock, _ = self._listener.accept()
        with sock, self._listener, contextlib.suppress(OSError, EOFError, FrameError):
            self._answer(sock)


def accepts_blindly(sock):
    sock.sendall(bytes(16))
    read_message(sock)
    sock.sendall(message(b"", bytes(32)))
    time.sleep(1)


def hangs_up(sock):
    sock.sendall(bytes(16))


def refuses(sock):
    with pytest.raises(FrameError) as stranger:
        admit(sock, "another token")
    assert stranger.value.refusal is Refusal.TOKEN
    sock.sendall(notice(stranger.value.status, stranger.value.reason))


@pytest.mark.parametrize(
    ("answer", "status"),
    [(accepts_blindly, Code.INVALID_ARGUMENT), (hangs_up, Code.UNAVAILABLE), (refuses, Code.UNAUTHENTICATED)],
)
def test_an_impostor_gets_no_frame(answer, status):
    broken = []
    target = LinkTarget("engine", "b", "127.0.0.1:1", "t", 1, data_port=Impostor(answer).port)
    link = TcpLink(target, lambda frame: None, lambda *what: broken.append(what))
    until = time.monotonic() + 5
    while not broken and time.monotonic() < until:
        time.sleep(0.01)
    [(node, found, detail)] = broken
    assert (node, found) == ("b", status)
    assert "\n" not in detail
    with pytest.raises(LinkError, match="the link to node 'b' is broken"):
        link.send(step_frame(1, Step(1, [])), 1.0)
    assert link.counts.frames == 0
    link.close()


def test_a_port_where_nobody_listens_is_said_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    broken = []
    link = TcpLink(
        LinkTarget("a", "b", "127.0.0.1:1", "t", 1, data_port=port), print, lambda *what: broken.append(what)
    )
    time.sleep(0.5)
    link.close()
    assert [(node, status) for node, status, _ in broken] == [("b", Code.UNAVAILABLE)]
