"""All-reduces: seconds by the formulas, and which algorithm for which size."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.planner.agreement import Agreement, agreement, agreements
from potluck.planner.all_reduce import Algorithm, AllReduce, Wire
from potluck.planner.collectives import (
    SECONDS,
    SIZES,
    choose,
    direct_seconds,
    fastest,
    mesh_of,
    ring_seconds,
    star_seconds,
)
from potluck.planner.fleet import Link
from potluck.planner.plan import Share, Stage

STAR, DIRECT, RING = Algorithm.STAR, Algorithm.DIRECT, Algorithm.RING


def alike(count, latency=1e-3, bandwidth=125e6):
    return [[Link(latency, bandwidth)] * count for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("nbytes", [0, 4096, 10**7])
def test_the_formulas_on_links_that_are_alike(count, nbytes):
    mesh, sent = alike(count), nbytes / 125e6
    assert star_seconds(mesh, nbytes) == pytest.approx(2e-3 + 2 * (count - 1) * sent)
    assert direct_seconds(mesh, nbytes) == pytest.approx(1e-3 + (count - 1) * sent)
    assert ring_seconds(mesh, nbytes) == pytest.approx(2 * (count - 1) * (1e-3 + sent / count))


def test_the_slowest_link_counts_where_it_is_used():
    slow = Link(0.1, 1e6)
    mesh = [list(row) for row in alike(3)]
    mesh[1][2] = slow
    assert star_seconds(mesh, 1e6) == star_seconds(alike(3), 1e6), "no worker of a star sends to another"
    assert direct_seconds(mesh, 1e6) == pytest.approx(0.1 + 1 + 1 / 125)
    assert ring_seconds(mesh, 1e6) == pytest.approx(4 * (0.1 + 1 / 3))


def test_small_sums_go_straight_and_large_ones_round():
    # 1e-3 + 3 S / B = 6 (1e-3 + S / (4 B)) where 1.5 S / B = 5e-3
    crossing = 5e-3 * 125e6 / 1.5
    assert choose(alike(4), SIZES) == ((int(crossing), DIRECT), (0, RING))
    assert choose(alike(2), SIZES) == ((0, DIRECT),), "both send at once; a star would send one after the other"


def test_a_star_where_only_the_lead_has_good_links():
    far, near = Link(20e-3, 1e6), Link(0.2e-3, 125e6)
    mesh = [[near if 0 in (i, j) else far for j in range(4)] for i in range(4)]
    assert choose(mesh, SIZES) == ((0, STAR),)


LINKS = st.builds(Link, st.floats(0, 0.02), st.floats(1e5, 1e10))


@given(st.data(), st.integers(2, 5))
def test_what_is_chosen_is_the_fastest_at_every_size_looked_at(data, count):
    row = st.lists(LINKS, min_size=count, max_size=count)
    mesh = data.draw(st.lists(row, min_size=count, max_size=count))
    found = choose(mesh, SIZES)
    bounds = [most for most, _ in found]
    assert bounds[-1] == 0 and bounds[:-1] == sorted(set(bounds[:-1]))
    assert all(one[1] is not two[1] for one, two in pairwise(found))
    agreed = Agreement(Wire.FLOAT32, found)
    for nbytes in (*SIZES, *(bound for bound in bounds if bound), *(bound + 1 for bound in bounds if bound)):
        assert agreed.algorithm(nbytes) is fastest(mesh, nbytes)
        assert SECONDS[agreed.algorithm(nbytes)](mesh, nbytes) == min(time(mesh, nbytes) for time in SECONDS.values())


def test_the_mesh_is_in_the_order_of_the_nodes(homes):
    fast = Link(0.0, 1e10)
    home = homes.fleet(*map(homes.node, "abc"), links={("c", "a"): fast})
    mesh = mesh_of(home, ("c", "b", "a"))
    assert mesh[0][2] == fast and mesh[2][0] == home.default_link and mesh[1][1] == Link(0.0, float("inf"))


def test_what_a_group_agrees_on(homes):
    def stage(**asked):
        return Stage((), tuple(map(Share, "abcd")), all_reduce=AllReduce(**asked))

    nodes = list(map(homes.node, "abcd"))
    slow, fast = homes.fleet(*nodes, latency=1e-3), homes.fleet(*nodes, bandwidth=1e9)
    assert agreement(stage(), slow, "float32") == Agreement(Wire.FLOAT32, choose(alike(4), SIZES), 4)
    assert agreement(stage(), slow, "bfloat16").wire is agreement(stage(), slow, "quantized").wire is Wire.BFLOAT16
    assert agreement(stage(), fast, "bfloat16").wire is Wire.FLOAT32, "the wire is as fast as memory"
    assert agreement(stage(), fast, "bfloat16").pieces == 1, "and nothing is gained by computing meanwhile"
    asked = agreement(stage(algorithm=RING, wire=Wire.INT8, pieces=2), slow, "float32")
    assert asked == Agreement(Wire.INT8, ((0, RING),), 2)
    kept = agreement(stage(wire=Wire.INT8_FEEDBACK), slow, "float32")
    assert kept == Agreement(Wire.INT8_FEEDBACK, ((0, DIRECT),), 1), "a ring would be faster for large sums"
    plan = homes.plan(homes.stage("a", homes.EMBEDDING), stage(algorithm=STAR))
    assert agreements(plan, slow) == {1: Agreement(Wire.FLOAT32, ((0, STAR),), 4)}
