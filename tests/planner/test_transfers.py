"""Who sends which rows to whom."""

from fractions import Fraction

import pytest

from potluck.planner.plan import Share, Stage
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


def test_groups_are_refused(homes):
    halves = [(Fraction(0), Fraction(1, 2)), (Fraction(1, 2), Fraction(1))]
    group = tuple(Share(name, sequence=half) for name, half in zip("bc", halves, strict=True))
    stage = homes.stage("a", range(2))
    with pytest.raises(ValueError, match="group"):
        transfers(stage, Stage(stage.parts, group), STEP)
