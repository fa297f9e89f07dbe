"""Groups that assignments describe absurdly, and members that talk nonsense: refusals and faults that name somebody."""

import itertools
import socket
import struct
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potluck.models.open import read_spec
from potluck.models.spec_codec import pack_spec
from potluck.proto import cluster_pb2 as pb
from potluck.proto import member_link
from potluck.proto.channel import PROTOCOL
from potluck.proto.errors import FrameError
from potluck.proto.member_link import MemberError, MemberLink
from potluck.proto.shaper import Shape
from potluck.proto.stream import StreamHead
from potluck.proto.tcp import Notice, greet, receive
from potluck.worker.assignment import read_assignment
from potluck.worker.shard_memory import ShardMemory
from potluck.worker.sums import ALGORITHMS, Buffers, Circle
from potluck.worker.wires import wire_of

EIGHT = {"num_attention_heads": 8, "num_key_value_heads": 8}
NUMBERS = st.integers(0, 12) | st.sampled_from([95, 96, 97, 319, 320, 321, 2**16, 2**31, 2**32 - 1])
NAMES = st.sampled_from(["a", "b", "c", "d", "", "x" * 300, "\u0000", "ä"])
WIRES = st.sampled_from(["float32", "bfloat16", "int8", "int8-feedback", "", "float16", "x" * 1000])
BYTES = st.sampled_from([0, 1, 4096, 2**63, 2**64 - 1])
REDUCTIONS = st.lists(
    st.builds(pb.Reduction, most_bytes=BYTES, algorithm=st.sampled_from(["star", "direct", "ring", "tree", ""]))
)
GROUPS = st.builds(
    pb.Group,
    nodes=st.lists(NAMES, max_size=5),
    first_head=NUMBERS,
    end_head=NUMBERS,
    first_column=NUMBERS,
    end_column=NUMBERS,
    first_rows=st.lists(NUMBERS, max_size=5),
    end_rows=st.lists(NUMBERS, max_size=5),
    wire=WIRES,
    reductions=REDUCTIONS,
)


@st.composite
def nearly_right(draw):
    """A group that would work, but for what is drawn for some of its fields."""
    group = pb.Group(nodes=["a", "b"], first_head=0, end_head=5, first_column=0, end_column=40, wire="float32")
    group.first_rows[:], group.end_rows[:] = [0, 100], [100, 320]
    group.reductions.add(algorithm="direct")
    drawn = draw(GROUPS)
    for field in draw(st.sets(st.sampled_from([field.name for field in pb.Group.DESCRIPTOR.fields]), max_size=3)):
        group.ClearField(field)
        group.MergeFrom(pb.Group(**{field: getattr(drawn, field)}))
    return group


@pytest.fixture(scope="module")
def ask(tiny_model):
    """ask(group, **window) -> an assignment of node a with this group."""
    spec = read_spec(tiny_model("llama2", 2, **EIGHT))

    def make(group, **window):
        given = {"embedding": True, "head": True, "end_layer": 2} | window
        return pb.Assignment(
            protocol=PROTOCOL,
            epoch=1,
            spec=pack_spec(spec),
            checkpoint="/nowhere",
            fingerprint="ab" * 32,
            dtype="float32",
            windows=[pb.Window(group=group, **given)],
            kv_blocks=8,
            block_size=4,
            peers=[pb.Peer(node=name, address="127.0.0.1:1", data_port=1) for name in "abc"],
            max_rows=16,
        )

    return make


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(group=GROUPS | nearly_right(), alone=st.booleans())
def test_absurd_groups_are_refused_or_could_be_loaded(ask, group, alone):
    """Nothing but FrameError comes out, in a line; what is taken has sizes that can be computed."""
    window = {"embedding": False, "head": False, "stage": 1, "next_nodes": ["b"]} if alone else {}
    try:
        share = read_assignment(ask(group, **window), "a")
    except FrameError as error:
        assert error.reason and len(error.reason) < 400 and "\n" not in error.reason
        return
    (plan,) = share.groups.values()
    assert "a" in plan.nodes and 2 <= len(plan.nodes) <= 3
    assert all(plan.algorithm(nbytes) in ALGORITHMS for nbytes in (1, 4096, 2**40))
    memory = ShardMemory(share.spec, share.windows, share.config)
    assert min(memory.weights, memory.kv) > 0


def test_what_is_nearly_right_is_right_when_nothing_is_drawn(ask):
    group = pb.Group(nodes=["a", "b"], end_head=5, end_column=40, wire="float32", first_rows=[0, 100])
    group.end_rows[:] = [100, 320]
    group.reductions.add(algorithm="direct")
    assert list(read_assignment(ask(group), "a").groups) == [0]


def header(number=1, size=40, checksum=0, mark=b"PLSU"):
    return struct.pack("<4sQIQd", mark, number, size, checksum, 0.0)


def never():
    """The member answers calls."""


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (header(size=2**32 - 1) + b"\x00" * 64, "something else"),
        (header(size=0), "something else"),
        (header(number=2) + b"\x00" * 40, "something else"),
        (header(checksum=1) + b"\x00" * 40, "checksum"),
        (header()[:15], "stopped in the middle"),
        (header() + b"\x00" * 12, "stopped in the middle"),
        (b"", "is lost"),
    ],
)
@pytest.mark.parametrize(
    "algorithm", ["direct", *(pytest.param(one, marks=pytest.mark.exhaustive) for one in ("star", "ring"))]
)
def test_a_member_that_talks_nonsense_is_named(monkeypatch, algorithm, sent, said):
    """Within 5 s, though it answers calls all the time; for the rest of a large message it gets longer."""
    monkeypatch.setattr(member_link, "_BODY_SECONDS", 2)
    ours, theirs = socket.socketpair()
    link = MemberLink("laptop", ours, Shape(), never)
    theirs.sendall(sent)
    if not sent:
        theirs.close()
    begun = time.monotonic()
    numbers = 20 if algorithm == "ring" else 10  # the same 40 bytes a message
    with pytest.raises(MemberError, match=rf"laptop.*{said}"):
        ALGORITHMS[algorithm](Circle(0, (None, link), wire_of("float32")), torch.ones(numbers), Buffers())
    assert time.monotonic() - begun < 5.0
    link.close()
    theirs.close()


def opened(processes, worker, name, epoch, agreement=""):
    """A socket as a member opens it; raises what it is told."""
    sock = socket.create_connection(("127.0.0.1", worker.data_port), timeout=5)
    try:
        greet(sock, StreamHead(name, "member", epoch, agreement), processes.TOKEN)
    except BaseException:
        sock.close()
        raise
    return sock


@pytest.fixture(scope="module")
def big(processes, tiny_model):
    return processes.Model(tiny_model("llama2", 2, **EIGHT))


def test_who_connects_before_the_epoch_is_loaded_is_told(processes, in_group, two_workers, epochs, big):
    """And the epoch works afterwards."""
    epoch = next(epochs)
    with pytest.raises(Notice, match=f"epoch {epoch} is not held here"):
        opened(processes, two_workers[1], "a", epoch)
    for worker, assignment in zip(
        two_workers, big.grouped(epoch, two_workers, in_group.cuts_of(big.spec, (5, 3))), strict=True
    ):
        worker.load(assignment)
    with processes.client(epoch, *two_workers, entries=2) as client:
        assert len(client.generate(processes.PROMPT, 3)) == 3
    for worker in two_workers:
        worker.release(epoch)


CHANGES = {
    "algorithm": lambda group: group.reductions.__getitem__(0).MergeFrom(pb.Reduction(algorithm="star")),
    "wire": lambda group: group.MergeFrom(pb.Group(wire="bfloat16")),
    "rows": lambda group: (group.first_rows.__setitem__(1, 7), group.end_rows.__setitem__(0, 7)),
    "sizes for algorithms": lambda group: group.reductions.insert(0, pb.Reduction(most_bytes=9, algorithm="ring")),
}


@pytest.mark.parametrize("changed", CHANGES)
@pytest.mark.parametrize("place", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_members_that_were_told_different_things(processes, in_group, two_workers, epochs, big, changed, place):
    """A fault that says so: they would read messages of the right size and add up the wrong ones."""
    epoch = next(epochs)
    asked = big.grouped(epoch, two_workers, in_group.cuts_of(big.spec, (1, 1)))
    CHANGES[changed](asked[place].windows[0].group)
    for worker, assignment in zip(two_workers, asked, strict=True):
        worker.load(assignment)
    with processes.client(epoch, *two_workers, entries=2) as client:
        begun = time.monotonic()
        with pytest.raises(AttributeError) as ended:
            client.generate(processes.PROMPT, 4)
        fault = ended.value.obj
        assert fault.node == "b" and "were told different things about the sums" in fault.reason
        assert time.monotonic() - begun < 5.0
    for worker in two_workers:
        worker.release(epoch)


def test_a_member_that_connects_and_stops(processes, in_group, two_workers, epochs, big):
    """It has the token and the name of one, says what that would say, and nothing more or half a message."""
    for sent, number in zip((b"", header()[:9]), itertools.count(), strict=False):
        epoch = next(epochs)
        asked = big.grouped(epoch, two_workers, in_group.cuts_of(big.spec, (1, 1)))
        two_workers[1].load(asked[1])
        agreement = _agreement(asked[1])
        with (
            opened(processes, two_workers[1], "a", epoch, agreement) as sock,
            processes.client(epoch, two_workers[1]) as client,
        ):
            sock.sendall(sent)
            begun = time.monotonic()
            with pytest.raises(AttributeError) as ended:
                client.generate(processes.PROMPT, 2)
            assert ended.value.obj.node == "a", number
            assert time.monotonic() - begun < 5.0
            assert receive(sock, 4) == b"PLSU"
        two_workers[1].release(epoch)


def _agreement(assignment):
    from potluck.worker.group_assignment import agreement_with

    return agreement_with("a", read_assignment(assignment, "b").groups)
