"""Who sends which rows to whom."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.models.spec import Part, PartKind
from potluck.planner.plan import Route, Share, Stage
from potluck.planner.transfers import Transfer, link_bytes, payload_bytes, transfers, wants_sampled
from potluck.proto.step import Outputs, Run, Step

# Rows 0-2 decode or end a prompt, rows 3-6 are the middle of another prompt.
STEP = Step(
    1, [Run(1, 9, [7], [], Outputs.LAST), Run(2, 0, [1, 2], [0], Outputs.LAST), Run(3, 0, [1] * 4, [1], Outputs.NONE)]
)


def test_all_rows_go_to_layers_and_sampled_rows_to_a_lone_head(homes):
    a, b = homes.stage("a", homes.EMBEDDING, range(2)), homes.stage("b", range(2, 4))
    alone, with_layers = homes.stage("a", homes.HEAD), homes.stage("a", range(4, 5), homes.HEAD)
    assert transfers(a, b, STEP) == (Transfer("a", "b", tuple(range(7))),)
    assert transfers(b, alone, STEP) == (Transfer("b", "a", (0, 2)),)
    assert transfers(b, with_layers, STEP) == (Transfer("b", "a", tuple(range(7))),)
    assert [wants_sampled(stage) for stage in (a, b, alone, with_layers)] == [False, False, True, False]


def test_nothing_crosses_where_one_node_has_both(homes):
    assert transfers(homes.stage("a", range(2)), homes.stage("a", range(2, 4)), STEP) == ()


def test_a_step_without_rows_still_travels(homes):
    empty = Step(2, [], dropped=[1])
    assert transfers(homes.stage("a", range(2)), homes.stage("b", range(2, 4)), empty) == (Transfer("a", "b", ()),)


def test_payload_of_a_ring(homes):
    ring = homes.plan(
        homes.stage("a", homes.EMBEDDING, range(1)),
        homes.stage("b", range(1, 2)),
        homes.stage("a", range(2, 3)),
        homes.stage("b", range(3, 4)),
        homes.stage("a", homes.HEAD),
    ).routes[0]
    row = 64 * 4
    assert link_bytes(ring, STEP, row) == {("a", "b"): 14 * row, ("b", "a"): 7 * row + 2 * row}
    assert payload_bytes(ring, STEP, 64, 4) == 23 * row
    assert payload_bytes(ring, STEP, 64, 2) == 23 * row // 2


def test_one_node_sends_nothing(homes):
    alone = homes.plan(homes.stage("a", homes.EMBEDDING, range(4), homes.HEAD)).routes[0]
    assert payload_bytes(alone, STEP, 64, 4) == 0


def test_a_group_gets_rows_from_the_lead_before_it_unless_it_has_them(homes):
    def group(names, *parts):
        return replace(homes.stage("a", *parts), shares=tuple(Share(name) for name in names))

    every, sampled = tuple(range(7)), (0, 2)
    abc, bcd, head = group("abc", range(2)), group("bcd", range(2, 4)), group("dae", homes.HEAD)
    assert transfers(abc, bcd, STEP) == (Transfer("a", "d", every),)
    assert transfers(bcd, head, STEP) == (Transfer("b", "a", sampled), Transfer("b", "e", sampled))
    assert transfers(homes.stage("a", range(1)), abc, STEP) == (Transfer("a", "b", every), Transfer("a", "c", every))
    assert transfers(abc, homes.stage("c", homes.HEAD), STEP) == ()
    assert link_bytes(Route((abc, bcd, head)), STEP, 4) == {("a", "d"): 28, ("b", "a"): 8, ("b", "e"): 8}


MEMBERS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True)


@given(MEMBERS, MEMBERS)
def test_every_member_gets_the_rows_exactly_once(before, after):
    parts = (Part(PartKind.ATTENTION, 0), Part(PartKind.FFN, 0))
    one, two = (Stage(parts, tuple(Share(name) for name in names)) for names in (before, after))
    sent = transfers(one, two, STEP)
    assert sorted([transfer.target for transfer in sent] + [name for name in after if name in before]) == sorted(after)
    assert {transfer.source for transfer in sent} <= {before[0]}
    assert all(transfer.rows == tuple(range(7)) for transfer in sent)


def test_rows_that_members_do_not_share_are_refused(homes):
    halves = [(Fraction(0), Fraction(1, 2)), (Fraction(1, 2), Fraction(1))]
    group = tuple(Share(name, sequence=half) for name, half in zip("bc", halves, strict=True))
    stage = homes.stage("a", range(2))
    for other in (Stage(stage.parts, group), replace(stage, groups={PartKind.FFN: stage.shares})):
        with pytest.raises(ValueError, match="do not all have the same rows"):
            transfers(stage, other, STEP)
