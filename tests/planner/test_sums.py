"""What sums put on the wire, against each algorithm played out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.planner.agreement import Agreement
from potluck.planner.all_reduce import Algorithm, Wire
from potluck.planner.plan import Share
from potluck.planner.sums import chunk_lengths, logits_traffic, stage_traffic, sum_traffic, sums_per_step
from potluck.proto.step import Outputs, Run, Step

NAMES = "abcdefgh"
STEP = Step(1, [Run(1, 9, [7], [], Outputs.LAST), Run(3, 0, [1] * 4, [1], Outputs.NONE)])


def sent(traffic, node):
    return sum(nbytes for (source, _), nbytes in traffic.items() if source == node)


@given(st.integers(2, 8), st.integers(0, 5000))
def test_bytes_by_algorithm_and_member(count, elements):
    nodes = NAMES[:count]
    star, direct = (sum_traffic(one, nodes, elements, 4) for one in (Algorithm.STAR, Algorithm.DIRECT))
    assert [sent(star, node) for node in nodes] == [(count - 1) * elements * 4] + [elements * 4] * (count - 1)
    assert {sent(direct, node) for node in nodes} == {(count - 1) * elements * 4}
    ring = sum_traffic(Algorithm.RING, nodes, elements, 2)
    assert sum(ring.values()) == 2 * (count - 1) * elements * 2
    assert set(ring) == {(nodes[i], nodes[(i + 1) % count]) for i in range(count)}


@given(st.integers(2, 8), st.integers(0, 50))
def test_a_ring_played_out_sums_every_number_and_sends_what_is_counted(count, elements):
    lengths = chunk_lengths(elements, count)
    assert sum(lengths) == elements and lengths == sorted(lengths, reverse=True) and lengths[0] - lengths[-1] <= 1
    have = [[{member} for _ in range(count)] for member in range(count)]
    bytes_sent = [0] * count
    for hop in range(2 * (count - 1)):
        turn = hop if hop < count - 1 else hop - count
        chunks = [(member - turn) % count for member in range(count)]
        messages = [set(have[member][chunk]) for member, chunk in enumerate(chunks)]
        for member, chunk in enumerate(chunks):
            bytes_sent[member] += lengths[chunk]
            have[(member + 1) % count][chunk] |= messages[member]
    assert all(chunk == set(range(count)) for member in have for chunk in member)
    ring = sum_traffic(Algorithm.RING, NAMES[:count], elements, 1)
    assert [sent(ring, node) for node in NAMES[:count]] == bytes_sent


@pytest.fixture
def group():
    return (
        Share("a", (0, 1), (0, 32), (0, 96)),
        Share("b", (1, 2), (32, 96), (96, 320)),
    )


def test_two_sums_a_layer_one_for_the_embedding_and_none_for_the_head(homes, group):
    def sums(*parts):
        return sums_per_step(replace(homes.stage("a", *parts), shares=group))

    assert sums(homes.EMBEDDING) == 1 and sums(homes.HEAD) == 0 and sums(range(3)) == 6
    assert sums(homes.EMBEDDING, range(4), homes.HEAD) == 9
    assert sums_per_step(homes.stage("a", range(3))) == 0


def test_what_a_step_puts_on_the_links(homes, group):
    spec = homes.model(4)
    stage = replace(homes.stage("a", homes.EMBEDDING, range(4), homes.HEAD), shares=group)
    agreed = Agreement(Wire.BFLOAT16, ((5 * 64 * 2, Algorithm.DIRECT), (0, Algorithm.RING)))
    part = 5 * 64 * 2
    assert stage_traffic(stage, STEP, spec, agreed) == {("a", "b"): 9 * part, ("b", "a"): 9 * part + 224 * 4}
    assert logits_traffic(stage, 3, spec) == {("b", "a"): 3 * 224 * 4}
    assert logits_traffic(homes.stage("a", range(2)), 3, spec) == {}
    assert stage_traffic(homes.stage("a", range(2)), STEP, spec, agreed) == {}
