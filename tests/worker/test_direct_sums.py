"""Sums that the extension forms itself: the messages, bits and errors of those that Python forms."""

import ctypes
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch

from potluck import proto
from potluck.proto import member_link, socket_calls
from potluck.proto.direct_sum import DirectSums
from potluck.proto.member_link import MemberError, MemberLink
from potluck.proto.shaper import Shape
from potluck.proto.socket_calls import SUM_ADDRESS
from potluck.worker.sums import ALGORITHMS, Buffers, Circle
from potluck.worker.wires import wire_of

pytestmark = pytest.mark.skipif(not SUM_ADDRESS, reason="Potluck was installed without its C++ extension")

_CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
HEAD = 32


class Member:
    """One member that forms sums in both ways."""

    def __init__(self, place, links, wire):
        self.wire, self.circle, self.buffers = wire, Circle(place, links, wire_of(wire)), Buffers()
        self.sums = DirectSums(place, links, wire == "bfloat16")

    def in_python(self, part_N):
        return ALGORITHMS["direct"](self.circle, part_N, self.buffers).clone()

    def in_one(self, part_N):
        """As the extension calls it: without the GIL."""
        out_N = part_N.clone()
        with self.sums.lent(len(out_N)) as (address, context):
            try:
                assert _CALL(address)(context, out_N.data_ptr(), len(out_N)) == 0
            except SystemError as error:  # ctypes' word for a function that left an error behind
                raise error.__cause__ from None
        return out_N


@pytest.fixture
def made(in_group):
    """made(members, wire="float32") -> members over socket pairs."""
    links = []

    def make(members, wire="float32"):
        links[:] = in_group.links_of(members)
        by_place = [tuple(own.get(f"node{other}") for other in range(members)) for own in links]
        assert all(DirectSums.possible(one) for one in by_place)
        return [Member(place, by_place[place], wire) for place in range(members)]

    yield make
    for own in links:
        for link in own.values():
            link.close()


def together(calls, parts):
    with ThreadPoolExecutor(len(parts)) as pool:
        found = [pool.submit(call, part_N) for call, part_N in zip(calls, parts, strict=True)]
        return [one.result(20) for one in found]


def parts_of(members, count):
    return list(torch.randn((members, count), generator=torch.Generator().manual_seed(count)))


@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
@pytest.mark.parametrize("members", [2, 3, 4])
def test_bits_and_messages_are_those_of_sums_in_python(made, members, wire):
    """One after the other over the same links, and with members of both kinds in one sum."""
    group, counts = made(members, wire), (1, 3, 64, 577, 300_000, 64)
    for count in counts:
        parts = parts_of(members, count)
        wanted = together([one.in_python for one in group], parts)
        ways = [[one.in_one, one.in_python] for one in group]
        mixed = [[pair[(place + first) % 2] for place, pair in enumerate(ways)] for first in range(2)]
        for calls in ([pair[0] for pair in ways], *mixed):
            assert all(torch.equal(found, wanted[0]) for found in together(calls, parts))
    link = group[0].circle.link(1)
    nbytes = sum(counts) * (2 if wire == "bfloat16" else 4)
    assert (link.counts.frames, link.counts.payload_bytes) == (4 * len(counts), 4 * nbytes)
    assert link.counts.header_bytes == 4 * HEAD * len(counts)
    sums, seconds = group[0].sums.done
    assert sums == 2 * len(counts) and seconds > 0


def test_numbers_are_added_in_the_order_of_places(made):
    """Of 1e8 + 1 - 1e8 only the order decides whether anything is left."""
    parts = [torch.full((4,), value) for value in (1e8, 1.0, -1e8)]
    assert [found.tolist() for found in together([one.in_one for one in made(3)], parts)] == [[0.0] * 4] * 3


def test_every_number_is_rounded_as_torch_does(made):
    group = made(2, "bfloat16")
    bits = torch.randint(-(2**31), 2**31, (200_000,), dtype=torch.int64, generator=torch.Generator().manual_seed(1))
    odd = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 3.4e38, float("inf"), -float("inf")])
    part_N = torch.cat([bits.to(torch.int32).view(torch.float32), odd]).nan_to_num(1.0)
    nothing_N = torch.zeros_like(part_N)
    found = together([one.in_one for one in group], [part_N, nothing_N])
    wanted = together([one.in_python for one in group], [part_N, nothing_N])
    assert all(torch.equal(one, wanted[0]) for one in found)


# What goes wrong ------------------------------------------------------------------------------------------------------


class Lone:
    """A member whose only other one is this test, at the end of a socket."""

    def __init__(self):
        ours, self.theirs = socket.socketpair()
        self.doubts = 0
        self.link = MemberLink("laptop", ours, Shape(), self.doubt)
        self.member = Member(0, (None, self.link), "float32")

    def doubt(self):
        self.doubts += 1
        if self.doubts > 1:
            raise MemberError("laptop", "is silent")

    def sum(self):
        return self.member.in_one(torch.ones(10))

    def close(self):
        if self.link is not None:
            self.link.close()
        self.theirs.close()


@pytest.fixture
def lone():
    one = Lone()
    yield one
    one.close()


def message(number=1):
    """What another member with the same part sends as its message of this number."""
    ours, theirs = socket.socketpair()
    link = MemberLink("x", ours, Shape(), lambda: None)
    for _ in range(number):
        link.start(memoryview(torch.ones(10).numpy()).cast("B"))
        data = bytearray(theirs.recv(1000))
    link.close()
    theirs.close()
    assert len(data) == HEAD + 40
    return data


@pytest.mark.parametrize("garbage", [b"\x00" * 200, b"PLSU" + b"\xff" * 196, b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9])
def test_garbage_names_who_sent_it(lone, garbage):
    lone.theirs.sendall(garbage)
    with pytest.raises(MemberError, match=r"laptop.*something else") as caught:
        lone.sum()
    assert caught.value.node == "laptop"


@pytest.mark.parametrize("place", [20, 60])
def test_a_flipped_bit_is_found(lone, place):
    data = message()
    data[place] ^= 1
    lone.theirs.sendall(data)
    with pytest.raises(MemberError, match="checksum"):
        lone.sum()


def test_who_is_slow_is_asked_and_waited_for(lone):
    data = message()
    lone.theirs.sendall(data[:40])
    late = threading.Timer(1.3, lambda: os.write(lone.theirs.fileno(), data[40:]))
    late.start()
    assert lone.sum().tolist() == [2.0] * 10
    assert lone.doubts == 1


def test_who_is_silent_ends_the_sum(lone):
    with pytest.raises(MemberError, match="is silent"):
        lone.sum()
    assert lone.doubts == 2


def test_who_stops_in_the_middle_of_a_header_ends_the_sum(lone):
    lone.link.doubt = lambda: None
    lone.theirs.sendall(b"PLSU")
    with pytest.raises(MemberError, match="stopped in the middle"):
        lone.sum()


def test_the_seconds_of_one_message_are_not_held_against_the_next(lone):
    """A body may stop for longer than a header, and both have stopped for a second here."""
    lone.link.doubt = lambda: None
    data = message() + message(2)
    lone.theirs.sendall(data[:40])
    for seconds, part in ((1.1, data[40:80]), (2.3, data[80:])):
        threading.Timer(seconds, os.write, (lone.theirs.fileno(), part)).start()
    assert [lone.sum().tolist() for _ in range(2)] == [[2.0] * 10] * 2


def test_who_has_sent_its_part_and_reads_slowly_is_not_in_the_middle_of_one(lone, monkeypatch):
    monkeypatch.setattr(member_link, "_BODY_SECONDS", 1)
    part_N = torch.ones(1 << 20)

    def slow():
        other = MemberLink("x", lone.theirs, Shape(), lambda: None)
        other.start(memoryview(part_N.numpy()).cast("B"))
        while other.sending:
            other.push()
        time.sleep(1.3)
        other.expect(memoryview(bytearray(4 << 20)))
        while other.receiving:
            other.pull(100)

    reader = threading.Thread(target=slow)
    reader.start()
    assert lone.member.in_one(part_N).sum() == 2 << 20
    reader.join(20)
    assert lone.doubts == 1


def test_who_leaves_ends_the_sum(lone):
    lone.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(MemberError, match="ended the link") as caught:
        lone.sum()
    assert caught.value.ended


def test_a_link_that_is_closed_meanwhile_ends_the_sum_and_its_number_is_not_reused(lone):
    """The descriptor stays this link's: another socket that is opened meanwhile is not read from."""
    held = lone.link.lend()[0]
    threading.Timer(0.2, lone.link.close).start()
    with pytest.raises(MemberError, match="is lost in the middle"):
        lone.sum()
    others = [end for _ in range(4) for end in socket.socketpair()]
    assert held not in [end.fileno() for end in others]
    for end in others:
        end.close()


def test_the_descriptor_ends_with_the_link(lone):
    held = lone.link.lend()[0]
    os.fstat(held)
    lone.link.close()
    lone.member, lone.link = None, None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)


def test_the_descriptor_is_there_until_the_process_has_ended():
    """Whoever computes while the interpreter exits would else go on with whatever has its number then."""
    code = """
import atexit, os, socket
atexit.register(lambda: print("open" if os.fstat(held) else ""))
from potluck.proto.member_link import MemberLink
from potluck.proto.shaper import Shape
ours, theirs = socket.socketpair()
held = (link := MemberLink("laptop", ours, Shape(), print)).lend()[0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("open\n", "")


def test_an_extension_of_an_older_checkout_is_left_alone(monkeypatch):
    monkeypatch.setattr(proto, "_link", ModuleType("potluck.proto._link"))
    spec = importlib.util.spec_from_file_location("fresh_socket_calls", socket_calls.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.CALLS is fresh.PYTHON and fresh.SUM_ADDRESS == 0


def test_links_that_are_more_than_a_socket_are_not_lent():
    ours, theirs = socket.socketpair()
    shaped = MemberLink("a", ours, Shape(latency=1e-3), lambda: None)
    assert not DirectSums.possible((None, shaped))
    shaped.close()
    theirs.close()
