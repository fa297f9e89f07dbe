"""Order and windows of the ring."""

from itertools import pairwise, permutations

from hypothesis import given
from hypothesis import strategies as st

from potluck.planner.fleet import Link
from potluck.planner.ring import ring_order, ring_route, ring_windows

COUNTS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 13), min_size=1).filter(lambda c: sum(c.values()))


def spans(windows):
    return [(window.node, window.layers.start, window.layers.stop) for window in windows]


def test_the_piped_ring_of_the_paper():
    """PRIMA.CPP's Fig. 1: six devices, two layers a window, 36 layers: 18 segments; the first has 1, 7 and 13."""
    windows = ring_windows("abcdef", dict.fromkeys("abcdef", 6), 3)
    assert [window.node for window in windows] == list("abcdef") * 3
    assert all(len(window.layers) == 2 for window in windows)


def test_the_example_of_the_architecture():
    assert spans(ring_windows("ab", {"a": 8, "b": 4}, 2)) == [("a", 0, 4), ("b", 4, 6), ("a", 6, 10), ("b", 10, 12)]


def test_what_does_not_divide_is_cut_in_the_last_rounds():
    assert spans(ring_windows("ab", {"a": 3, "b": 2}, 2)) == [("a", 0, 2), ("b", 2, 3), ("a", 3, 4), ("b", 4, 5)]


def test_neighbours_on_one_node_are_joined():
    assert spans(ring_windows("ab", {"a": 6, "b": 1}, 3)) == [("a", 0, 2), ("b", 2, 3), ("a", 3, 7)]
    assert spans(ring_windows("a", {"a": 6}, 3)) == [("a", 0, 6)]


@given(COUNTS, st.integers(1, 20))
def test_windows_are_the_layers_in_order(counts, rounds):
    windows = ring_windows(sorted(counts), counts, rounds)
    assert [layer for window in windows for layer in window.layers] == list(range(sum(counts.values())))
    assert all(len(window.layers) for window in windows)
    assert all(one.node != two.node for one, two in pairwise(windows))
    for node, count in counts.items():
        sizes = [len(window.layers) for window in windows if window.node == node]
        assert sum(sizes) == count and len(sizes) <= rounds
        if all(other >= rounds for other in counts.values()) and len(counts) > 1:
            assert len(sizes) == rounds and max(sizes) - min(sizes) <= 1


@given(COUNTS, st.integers(1, 6), st.sampled_from("abcde"), st.sampled_from("abcde"))
def test_the_route_has_the_ends_on_their_nodes(homes, counts, rounds, start, head):
    layers = sum(counts.values())
    route = ring_route(ring_windows(sorted(counts), counts, rounds), start, head)
    assert [part for stage in route.stages for part in stage.parts] == list(homes.model(layers).parts())
    assert (route.stages[0].node, route.stages[-1].node) == (start, head)
    assert all(one.node != two.node for one, two in pairwise(route.stages))


@given(st.data())
def test_the_order_takes_the_least_time(homes, data):
    names = [f"n{index}" for index in range(data.draw(st.integers(1, 5)))]
    links = st.builds(Link, st.sampled_from([0.001, 0.003, 0.01]), st.just(1e8))
    pairs = [(a, b) for a in names for b in names if a != b]
    fleet = homes.fleet(*map(homes.node, names), links={pair: data.draw(links) for pair in pairs})

    def around(order):
        return sum(fleet.link(a, b).latency for a, b in zip(order, (*order[1:], order[0]), strict=True))

    order = ring_order(fleet, names[0], names, 0)
    best = min(around((names[0], *rest)) for rest in permutations(names[1:]))
    assert order[0] == names[0] and sorted(order) == names
    assert around(order) <= best + 1e-12


def test_equal_links_keep_the_fleet_s_order(homes):
    fleet = homes.fleet(*map(homes.node, "dacb"))
    assert ring_order(fleet, "c", list("dacb"), 100) == list("cdab")


def test_a_large_fleet_goes_to_the_nearest_next(homes):
    names = [f"n{index}" for index in range(12)]
    near = {(f"n{index}", f"n{(index + 5) % 12}"): Link(1e-6, 1e9) for index in range(12)}
    fleet = homes.fleet(*map(homes.node, names), links=near)
    assert ring_order(fleet, "n0", names, 100) == [f"n{index * 5 % 12}" for index in range(12)]
