"""A stage's parts in proportions."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.models.spec import Part, PartKind
from potluck.planner.axes import computed_heads, query_heads
from potluck.planner.plan import Plan, Residency, Route, Share, Stage
from potluck.planner.splitting import SplitError, in_proportion, split_shares
from potluck.planner.validate import validate


def split(spec, *weights, parts=None):
    wholes = [Share(f"n{index}") for index in range(len(weights))]
    return split_shares(spec, parts or tuple(spec.parts()), wholes, [Fraction(weight) for weight in weights])


def heads(spec, *weights):
    return [query_heads(spec, share) for share in split(spec, *weights)]


@pytest.fixture
def llama8b(homes):
    return homes.model(32, vocab=128256, hidden=4096, ffn=14336, heads=32, kv_heads=8, head_dim=128)


def test_five_two_one(llama8b, smollm2):
    assert split(llama8b, 5, 2, 1) == (
        Share("n0", (0, 5), (0, 8960), (0, 80160)),
        Share("n1", (5, 7), (8960, 12544), (80160, 112224)),
        Share("n2", (7, 8), (12544, 14336), (112224, 128256)),
    )
    assert [share.ffn_columns for share in split(smollm2, 5, 2, 1)] == [(0, 1024), (1024, 1280), (1280, 1536)]


def test_only_axes_that_the_parts_have(smollm2):
    layer = (Part(PartKind.ATTENTION, 0), Part(PartKind.FFN, 0))
    assert [share.vocabulary for share in split(smollm2, 1, 1, parts=layer)] == [None, None]
    assert split(smollm2, 1, 2, parts=(Part(PartKind.HEAD),))[0] == Share("n0", vocabulary=(0, 16384))


def test_one_node_has_all_of_it(smollm2):
    whole = Share("a", residency=Residency.STREAMED, window=3)
    assert split_shares(smollm2, tuple(smollm2.parts()), [whole], [Fraction(3)]) == (whole,)


def test_more_nodes_than_kv_heads_share_them(homes, smollm2):
    spec = homes.model(1, heads=16, kv_heads=2)
    assert heads(spec, 1, 1, 1, 5) == [(0, 3), (3, 6), (6, 8), (8, 16)]
    assert heads(spec, 1, 1, 6) == [(0, 4), (4, 8), (8, 16)]
    assert heads(homes.model(1, heads=8, kv_heads=2), 1, 1, 1, 1) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert heads(smollm2, 9, 1, 1, 1) == [(0, 6), (6, 7), (7, 8), (8, 9)]
    assert split(smollm2, 9, 1, 1, 1)[0].kv_heads is None


def test_columns_are_whole_blocks_where_there_are_enough(homes):
    def columns(ffn, *weights):
        return [share.ffn_columns[1] - share.ffn_columns[0] for share in split(homes.model(1, ffn=ffn), *weights)]

    assert columns(1024, 5, 2, 1) == [512, 256, 256]
    assert columns(512, 5, 2, 1) == [320, 128, 64]
    assert columns(96, 5, 2, 1, 1) == [53, 21, 11, 11]


def test_what_cannot_be_split(homes):
    for spec, what in ((homes.model(1), "4 query heads"), (homes.model(1, ffn=4, heads=8), "4 FFN columns")):
        with pytest.raises(SplitError, match=f"the model's {what} do not go to 5 nodes; leave nodes out"):
            split(spec, 1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="in the proportions"):
        split(homes.model(1), 1, 0)
    with pytest.raises(ValueError, match="2 weights for 1 nodes"):
        split_shares(homes.model(1), (), [Share("a")], [Fraction(1)] * 2)


WEIGHTS = st.lists(st.fractions(Fraction(1, 1000), 1000), min_size=1, max_size=8)


@given(WEIGHTS, st.integers(0, 10**4))
def test_proportions_add_up_and_are_within_one_but_for_those_that_get_their_only_one(weights, more):
    total = len(weights) + more
    counts = in_proportion(total, weights)
    assert sum(counts) == total and min(counts) >= 1
    rest = [(count, weight) for count, weight in zip(counts, weights, strict=True) if count > 1]
    for count, weight in rest:
        assert count <= total * weight / sum(weights) + 1
    for (one, light), (two, heavy) in pairwise(rest):
        assert (one <= two + 1) if light <= heavy else (two <= one + 1)


@given(st.data(), WEIGHTS)
def test_any_proportions_tile_exactly(homes, data, weights):
    shape = data.draw(st.sampled_from([(8, 1), (8, 2), (8, 4), (8, 8), (9, 3), (32, 8), (14, 2), (12, 12)]))
    ffn = data.draw(st.sampled_from([96, 1536, 8960, 4864, 97]))
    vocab = data.draw(st.sampled_from([320, 49152, 151936, 32003]))
    spec = homes.model(2, heads=shape[0], kv_heads=shape[1], ffn=ffn, vocab=vocab)
    shares = split(spec, *weights)
    home = homes.fleet(*(homes.node(share.node) for share in shares))
    validate(Plan("tiny", "float32", (Route((Stage(tuple(spec.parts()), shares),)),), 64), home, spec)
    ranges = [query_heads(spec, share) for share in shares]
    assert all(one[1] == two[0] for one, two in pairwise(ranges)), "in the order of the nodes"
    assert all(computed_heads(spec, held) == held for held in ranges), "nobody computes heads that are not its own"
