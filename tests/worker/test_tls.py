"""Frames and sums over TLS, where both ends show a certificate: as without it, and nobody else gets in."""

import contextlib
import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
import torch

from potluck.proto.frames import Frame, Kind
from potluck.proto.link import LinkTarget
from potluck.proto.member_link import MemberError
from potluck.proto.shaper import Shape
from potluck.proto.tcp import dial
from potluck.proto.tcp_link import TcpLink
from potluck.proto.tls import read_tls
from potluck.proto.tls_socket import TlsError
from potluck.worker.data_port import DataPort
from potluck.worker.epochs import Epoch, Epochs, Ways
from potluck.worker.members import Members
from potluck.worker.sums import ALGORITHMS, Buffers, Circle
from potluck.worker.wires import wire_of

TOKEN = "t" * 32
ROWS, HIDDEN = 512, 1024  # frames of 2 MiB: more than sockets take at once


class Echo:
    """In the executor's place: every frame goes back as it came."""

    def put(self, epoch, frame):
        self._last = epoch, frame

    def run_next(self):
        epoch, frame = self._last
        epoch.answer(frame)


class Party:
    """Nodes in this process, each with its data port and its links to the others; `tls` says what each shows."""

    def __init__(self, names, tls):
        self.names, self._tls, self._ports, self.members = names, tls, {}, {}
        nodes = {name: SimpleNamespace(epochs=Epochs(), executor=Echo()) for name in names}
        for name, node in nodes.items():
            port = DataPort(name, TOKEN, lambda _: Shape(), lambda node=node: node, tls=tls[name])
            self._ports[name] = (port, port.listen("127.0.0.1"))
        for name, node in nodes.items():
            others = {other: self.target(name, other, "member") for other in names if other != name}
            self.members[name] = Members(name, others)
            ways = Ways({0: ()}, {}, "float32", HIDDEN, ROWS)
            node.epochs.add(Epoch(1, SimpleNamespace(close=lambda: None), ways, self.members[name]))

    def target(self, source, node, role, port=None):
        port = port or self._ports[node][1]
        return LinkTarget(source, node, "127.0.0.1:1", TOKEN, 1, role, data_port=port, tls=self._tls[source])

    def tap(self, source, node):
        """Someone between two members."""
        tap = Tap(self._ports[node][1])
        self.members[source]._targets[node] = self.target(source, node, "member", tap.port)
        return tap

    def sums(self, algorithm, parts):
        """Every member's sums of these parts, one after the other."""

        def run(place):
            links = tuple(
                self.members[self.names[place]].link(name) if name != self.names[place] else None for name in self.names
            )
            circle, buffers = Circle(place, links, wire_of("float32")), Buffers()
            return [ALGORITHMS[algorithm](circle, part[place], buffers).clone() for part in parts]

        with ThreadPoolExecutor(len(self.names)) as pool:
            return [future.result(30) for future in [pool.submit(run, place) for place in range(len(self.names))]]

    def close(self):
        for members in self.members.values():
            members.close()
        for port, _ in self._ports.values():
            port.close()


class Tap:
    """Someone on the way to a port, who writes down what passes in both directions."""

    def __init__(self, port):
        self.heard, self._listener = bytearray(), socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(port,), daemon=True).start()

    def _serve(self, port):
        with self._listener, self._listener.accept()[0] as near, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=self._pass, args=(far, near))
            back.start()
            self._pass(near, far)
            back.join()

    def _pass(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.heard += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def party():
    """party(names, tls) -> Party; closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda names, tls: stack.enter_context(contextlib.closing(Party(names, tls)))


@pytest.fixture
def fleet(authorities, tmp_path):
    return authorities(tmp_path / "fleet")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sums_have_the_same_bits_as_without(party, fleet, algorithm):
    names = "abc"
    parts = [torch.randn((3, count), generator=torch.Generator().manual_seed(count)) for count in (1, 999, 400_000, 7)]
    found = party(names, {name: fleet.tls(name) for name in names}).sums(algorithm, parts)
    plain = party(names, dict.fromkeys(names)).sums(algorithm, parts)
    for one in (*found, *plain[1:]):
        assert all(torch.equal(sum_, other) for sum_, other in zip(one, plain[0], strict=True))


@pytest.mark.parametrize("guarded", [True, False])
def test_nobody_on_the_way_can_read(party, fleet, guarded):
    """Without TLS everything is there to read, so that the tap can be trusted."""
    home = party("ab", {name: fleet.tls(name) if guarded else None for name in "ab"})
    to_b, frames = home.tap("a", "b"), Tap(home.target("a", "b", "member").data_port)
    part = torch.full((2, 1000), 1234.5)
    assert torch.equal(home.sums("direct", [part])[0][0], part[0] + part[1])
    payload, back = bytes(range(256)) * (ROWS * HIDDEN // 64), queue.SimpleQueue()
    link = TcpLink(home.target("a", "b", "coordinator", frames.port), back.put, print)
    link.send(Frame(1, 1, 0, Kind.HIDDEN, b"", (), "float32", (ROWS, HIDDEN), payload), 10.0)
    assert _joined(back, 1) == [payload]
    link.close()
    for heard, secret in ((to_b.heard, part[0, :4].numpy().tobytes()), (frames.heard, payload[:256])):
        assert len(heard) > 4000 and (secret in heard) is not guarded
        assert (b"potluck-node" in heard) is not guarded


def test_frames_go_both_ways_at_once(party, fleet):
    home, back, broken = party("ab", {name: fleet.tls(name) for name in "ab"}), queue.SimpleQueue(), []
    link = TcpLink(home.target("a", "b", "coordinator"), back.put, lambda *what: broken.append(what))
    payloads = [bytes([number]) * (4 * ROWS * HIDDEN) for number in range(12)]
    for number, payload in enumerate(payloads, 1):
        link.send(Frame(1, number, 0, Kind.HIDDEN, b"", (), "float32", (ROWS, HIDDEN), payload), 10.0)
    assert _joined(back, len(payloads)) == payloads and not broken
    link.close()


def _joined(frames, count):
    """The payloads of so many frames, whose parts come in order."""
    found = []
    while len(found) < count or len(found[-1]) < 4 * ROWS * HIDDEN:
        part = frames.get(timeout=20)
        found += [bytearray()] if len(found) < part.number else []
        found[part.number - 1] += part.payload
    return found


def strangers(fleet, authorities, tmp_path):
    return {
        "none": (fleet.without_certificate(), "which shows no certificate", "it shows no certificate"),
        "another": (authorities(tmp_path / "other").tls("a"), "not of this fleet's authority", "it refuses this node"),
        "over": (fleet.tls("a", days=-1), "refuses this node's certificate", "not valid now"),
    }


@pytest.mark.parametrize("who", ["none", "another", "over"])
def test_whoever_has_no_certificate_of_the_fleet_is_refused(party, fleet, authorities, tmp_path, caplog, who):
    shown, opener_says, port_says = strangers(fleet, authorities, tmp_path)[who]
    home = party("ab", {"a": shown, "b": fleet.tls("b")})
    with pytest.raises(MemberError, match="cannot be reached for a sum") as refused:
        home.members["a"].link("b")
    assert opener_says in str(refused.value) and refused.value.node == "b"
    assert _logged(caplog, port_says) == "potluck.worker"
    broken = queue.SimpleQueue()
    link = TcpLink(home.target("a", "b", "coordinator"), print, lambda *what: broken.put(what))
    node, status, detail = broken.get(timeout=10)
    assert (node, status) == ("b", grpc.StatusCode.UNAVAILABLE) and opener_says in detail and "\n" not in detail
    link.close()


def _logged(caplog, words, seconds=5.0):
    """Which logger said so."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for record in caplog.records:
            if "not of this fleet" in record.getMessage() and words in record.getMessage():
                return record.name
        time.sleep(0.02)
    return [record.getMessage() for record in caplog.records]


def test_one_end_alone_speaks_tls(party, fleet, caplog):
    with pytest.raises(MemberError, match="it speaks no TLS"):
        party("ab", {"a": fleet.tls("a"), "b": None}).members["a"].link("b")
    guarded = party("ab", {"a": None, "b": fleet.tls("b")})
    with socket.create_connection(("127.0.0.1", guarded.target("a", "b", "member").data_port), timeout=10) as sock:
        sock.sendall(bytes(200))
        with contextlib.suppress(ConnectionResetError):
            assert len(sock.recv(16)) < 16, "no nonce, so that nobody without TLS gets to greet"
    assert _logged(caplog, "it speaks no TLS") == "potluck.worker"


def test_a_member_that_leaves_is_named(party, fleet):
    home = party("ab", {name: fleet.tls(name) for name in "ab"})
    home.sums("direct", [torch.ones(2, 10)])
    link = home.members["a"].link("b")
    home.members["b"].close()
    for algorithm in ("direct", "star"):
        with pytest.raises(MemberError, match="is lost in the middle of a sum") as lost:
            ALGORITHMS[algorithm](Circle(0, (None, link), wire_of("float32")), torch.ones(500_000), Buffers())
        assert lost.value.node == "b" and lost.value.ended and "speaks no TLS" not in str(lost.value)


def test_calls_wait_as_long_as_they_may(party, fleet):
    home = party("ab", {name: fleet.tls(name) for name in "ab"})
    with dial("127.0.0.1:1", home.target("a", "b", "member").data_port, fleet.tls("a")) as sock:
        assert len(sock.recv(16)) == 16
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert sock.fileno() == -1


def test_files_that_do_not_belong_together(authorities, fleet, tmp_path):
    fleet.tls("a"), fleet.tls("b")
    certificate, key, authority = fleet.files("a")
    for files, says in (
        ((certificate, fleet.files("b")[1], authority), "that belong together"),
        ((certificate, tmp_path / "no.key", authority), "No such file"),
        ((certificate, key, key), "no PEM certificate"),
    ):
        with pytest.raises(TlsError, match=says) as wrong:
            read_tls(*files)
        assert str(tmp_path) in str(wrong.value) and "\n" not in str(wrong.value)
