"""Sums among members in one process: threads over socket pairs, every algorithm, wire and size."""

import itertools
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from potluck.proto.member_link import MemberError, MemberLink
from potluck.proto.shaper import Shape
from potluck.worker.sums import ALGORITHMS, Buffers, Circle, chunk_sizes
from potluck.worker.wires import wire_of


def _never():
    """A member that is waited for longer than a second is gone."""
    raise MemberError("x", "is silent")


class Ring:
    """N members of one group with links in memory."""

    def __init__(self, members, wire="float32", shape=None):
        links = [[None] * members for _ in range(members)]
        for a, b in itertools.combinations(range(members), 2):
            ends = socket.socketpair()
            for (own, other), sock in zip(((a, b), (b, a)), ends, strict=True):
                links[own][other] = MemberLink(f"node{other}", sock, shape or Shape(), _never)
        self.circles = [Circle(place, tuple(links[place]), wire_of(wire)) for place in range(members)]
        self.buffers = [Buffers() for _ in range(members)]

    def sum(self, algorithm, parts):
        """Every member's result, copied."""
        one = ALGORITHMS[algorithm]
        with ThreadPoolExecutor(len(parts)) as pool:
            found = [
                pool.submit(lambda place: one(self.circles[place], parts[place], self.buffers[place]).clone(), place)
                for place in range(len(parts))
            ]
            return [future.result(20) for future in found]

    def sent(self, place):
        counts = [link.counts for link in self.circles[place].links if link]
        return sum(count.frames for count in counts), sum(count.payload_bytes for count in counts)

    def close(self):
        for circle in self.circles:
            for place in circle.others:
                circle.link(place).close()


def parts_of(members, count, seed=0):
    return list(torch.randn((members, count), generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("wire", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("members", [2, 3, 4])
def test_all_members_have_the_same_bits_in_every_run(algorithm, wire, members):
    ring = Ring(members, wire)
    for count in (1, 3, 64, 577, 300_000):
        parts = parts_of(members, count)
        first, again = ring.sum(algorithm, parts), ring.sum(algorithm, parts)
        assert all(torch.equal(first[0], other) for other in (*first, *again))
        exact = torch.stack(parts).double().sum(0)
        rounding = {"float32": 2**-22, "bfloat16": 2**-8, "int8": 1 / 100}[wire]
        most = torch.stack(parts).abs().max() * members * 2
        assert (first[0] - exact).abs().max() <= rounding * most
        assert wire == "float32" or count < 64 or not torch.equal(first[0], exact.float())
    ring.close()


def test_numbers_are_added_in_the_order_of_places():
    """Of 1e8 + 1 - 1e8 only the order decides whether anything is left."""
    parts = [torch.full((4,), value) for value in (1e8, 1.0, -1e8)]
    ring = Ring(3)
    assert ring.sum("star", parts)[2].tolist() == ring.sum("direct", parts)[1].tolist() == [0.0] * 4
    ring.close()


@pytest.mark.parametrize("members", [2, 3, 4])
@pytest.mark.parametrize("count", [7, 1000])
def test_messages_and_bytes_are_those_of_the_formulas(members, count):
    size = 4 * count
    chunks = [4 * number for number in chunk_sizes(count, members)]
    for algorithm in ALGORITHMS:
        ring = Ring(members)
        ring.sum(algorithm, parts_of(members, count))
        sent = [ring.sent(place) for place in range(members)]
        if algorithm == "star":
            assert sent == [(members - 1, (members - 1) * size)] + [(1, size)] * (members - 1)
        elif algorithm == "direct":
            assert sent == [(members - 1, (members - 1) * size)] * members
        else:
            assert [frames for frames, _ in sent] == [2 * (members - 1)] * members
            assert sum(payload for _, payload in sent) == 2 * (members - 1) * sum(chunks)
        ring.close()


@pytest.mark.parametrize(("algorithm", "hops"), [("star", 2), ("direct", 1), ("ring", 4)])
def test_emulated_latency_counts_once_per_hop(algorithm, hops):
    """Deadlines with slack: the delay itself is certain, what the machine adds to it is not."""
    delay = 0.04
    ring = Ring(3, shape=Shape(latency=delay))
    begun = time.perf_counter()
    ring.sum(algorithm, parts_of(3, 100))
    assert hops * delay <= time.perf_counter() - begun < (hops + 0.9) * delay
    ring.close()


def test_feedback_makes_good_what_rounding_took():
    plain, repaid = wire_of("int8"), wire_of("int8-feedback")
    parts = parts_of(40, 256)
    totals = {}
    for name, wire in (("plain", plain), ("repaid", repaid)):
        scratch = torch.empty(wire.nbytes(256), dtype=torch.uint8)
        totals[name] = sum(wire.read(wire.encode(part, scratch)).clone() for part in parts)
    exact = sum(parts)
    errors = {name: (total - exact).norm().item() for name, total in totals.items()}
    assert errors["repaid"] < errors["plain"] / 3
    repaid.begin()
    scratch = torch.empty(plain.nbytes(256), dtype=torch.uint8)
    assert torch.equal(
        repaid.read(repaid.encode(parts[0], scratch)).clone(), plain.read(plain.encode(parts[0], scratch))
    )


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 200, b"PLSU" + b"\xff" * 196, b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9], ids=repr
)
def test_garbage_names_who_sent_it(garbage):
    ours, theirs = socket.socketpair()
    circle = Circle(0, (None, MemberLink("laptop", ours, Shape(), _never)), wire_of("float32"))
    theirs.sendall(garbage)
    with pytest.raises(MemberError, match=r"laptop.*something else") as caught:
        ALGORITHMS["direct"](circle, torch.ones(10), Buffers())
    assert caught.value.node == "laptop"
    circle.link(1).close()
    theirs.close()


def test_a_flipped_bit_is_found():
    (ours, middle), (other, theirs) = socket.socketpair(), socket.socketpair()

    def flip():
        data = bytearray()
        while len(data) < 32 + 40:
            data += other.recv(100)
        data[60] ^= 1
        middle.sendall(data)

    thread = threading.Thread(target=flip)
    thread.start()
    sender = Circle(0, (None, MemberLink("a", theirs, Shape(), _never)), wire_of("float32"))
    sender.link(1).start(memoryview(torch.ones(10).numpy()).cast("B"))
    circle = Circle(0, (None, MemberLink("laptop", ours, Shape(), _never)), wire_of("float32"))
    with pytest.raises(MemberError, match="checksum"):
        ALGORITHMS["direct"](circle, torch.ones(10), Buffers())
    thread.join()
    for end in (circle.link(1), sender.link(1), middle, other):
        end.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_member_that_is_gone_or_silent_ends_the_sum(algorithm):
    ring = Ring(3)
    ring.circles[2].link(0).close()
    ring.circles[2].link(1).close()
    with pytest.raises(MemberError, match=r"node[12]"):
        ring.sum(algorithm, [*parts_of(2, 10)])
    ring.close()
    silent = Ring(3)
    begun = time.monotonic()
    with pytest.raises(MemberError, match="is silent"):
        silent.sum(algorithm, [*parts_of(2, 10)])
    assert time.monotonic() - begun < 9
    silent.close()
