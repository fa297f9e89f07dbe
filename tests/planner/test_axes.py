"""What a share holds: heads with their KV heads, and the bytes that makes on a node."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.models.roles import NORMS, Role, keys_of
from potluck.models.sizes import tensor_bytes
from potluck.models.spec import Part, PartKind
from potluck.planner.axes import computed_heads, kv_heads, local_spec, query_heads
from potluck.planner.memory import node_bytes
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.validate import PlanError, validate
from potluck.worker import cut as worker

COPIED = NORMS | {Role.O_BIAS}


def plan_of(spec, *shares, kv_tokens=64, first=0, end=None):
    parts = tuple(spec.parts())[first:end]
    return Plan("tiny", "float32", (Route((Stage(parts, shares),)),), kv_tokens)


def bytes_of(spec, roles):
    keys = {key for part in spec.parts() for key in keys_of(spec, part)}
    return sum(tensor_bytes(spec, key, "float32") for key in keys if key.role in roles)


@pytest.fixture
def eight(homes):
    """Eight query heads, of which four attend with each of two KV heads; no bytes are rounded up."""
    return homes.model(4, heads=8, kv_heads=2, head_dim=16, hidden=128, qkv_bias=True, output_bias=True, qk_norm=True)


def test_query_heads_follow_their_kv_head(eight):
    assert query_heads(eight, Share("a", kv_heads=(1, 2))) == (4, 8)
    assert query_heads(eight, Share("a", heads=(3, 5))) == (3, 5) and query_heads(eight, Share("a")) == (0, 8)
    assert [kv_heads(eight, heads) for heads in ((0, 4), (0, 3), (3, 5), (4, 8))] == [(0, 1), (0, 1), (0, 2), (1, 2)]
    assert [computed_heads(eight, heads) for heads in ((1, 3), (3, 5), (0, 8))] == [(1, 3), (0, 8), (0, 8)]


@given(st.data())
def test_the_worker_counts_alike(homes, data):
    spec = data.draw(homes.models())
    first = data.draw(st.integers(0, spec.heads - 1))
    heads = first, data.draw(st.integers(first + 1, spec.heads))
    cut = worker.Cut(heads, (8, 24), (0, 16))
    assert (kv_heads(spec, heads), computed_heads(spec, heads)) == (
        worker.kv_heads(spec, cut),
        worker.computed_heads(spec, cut),
    )
    share = Share("a", heads=heads, ffn_columns=(8, 24), vocabulary=(0, 16))
    assert local_spec(spec, share) == worker.local_spec(spec, cut)


def test_uneven_shares_add_up_to_the_model_and_what_everybody_copies(homes):
    spec = homes.model(4, heads=8, kv_heads=8, head_dim=16, hidden=128, output_bias=True)
    shares = (
        Share("a", kv_heads=(0, 5), ffn_columns=(0, 48), vocabulary=(0, 160)),
        Share("b", kv_heads=(5, 7), ffn_columns=(48, 64), vocabulary=(160, 304)),
        Share("c", kv_heads=(7, 8), ffn_columns=(64, 96), vocabulary=(304, 320)),
    )
    sizes, whole = node_bytes(plan_of(spec, *shares), spec), node_bytes(plan_of(spec, Share("a")), spec)["a"]
    assert sum(size.weights for size in sizes.values()) == whole.weights + 2 * bytes_of(spec, COPIED)
    assert [size.kv * 8 // whole.kv for size in sizes.values()] == [5, 2, 1]


def test_members_that_share_a_kv_head_each_keep_it(eight):
    shares = [Share(name, heads=heads) for name, heads in zip("abc", [(0, 4), (4, 5), (5, 8)], strict=True)]
    attention = Part(PartKind.ATTENTION, 0)
    stage = Stage((attention,), tuple(shares))
    sizes = node_bytes(Plan("tiny", "float32", (Route((stage,)),), 64), eight)
    one = 64 * 2 * 16 * 4
    assert [size.kv for size in sizes.values()] == [one, one, one]
    row, bias = 128 * 4, 4
    copied = 4 * (128 + 128 + 16 + 16)
    kv = 2 * 16 * (row + bias)
    expected = [heads * 16 * (2 * row + bias) + kv + copied for heads in (4, 1, 3)]
    assert [size.weights for size in sizes.values()] == expected


def test_parts_of_several_groups_cost_all_of_their_heads(eight):
    across, whole = (
        node_bytes(plan_of(eight, share, first=1, end=3), eight)["a"]
        for share in (Share("a", heads=(3, 5)), Share("a"))
    )
    others = 6 * 16 * 128 * 4
    assert (across.kv, across.weights) == (whole.kv, whole.weights - others), "but for columns of the output matrix"


def test_shares_by_either_name_tile_together(homes, eight):
    home = homes.fleet(*(homes.node(name) for name in "abc"))
    rest = [{"ffn_columns": (0, 32)}, {"ffn_columns": (32, 64)}, {"ffn_columns": (64, 96)}]
    rows = [{"vocabulary": (0, 32)}, {"vocabulary": (32, 64)}, {"vocabulary": (64, 320)}]

    def plan(*heads):
        listed = zip("abc", heads, rest, rows, strict=True)
        return plan_of(eight, *(Share(name, **one, **two, **three) for name, one, two, three in listed))

    validate(plan({"kv_heads": (0, 1)}, {"heads": (4, 7)}, {"heads": (7, 8)}), home, eight)
    for heads, message in (
        (({"kv_heads": (0, 1)}, {"heads": (4, 6)}, {"heads": (7, 8)}), "do not tile heads 0-7 and the sequence"),
        (({"kv_heads": (0, 1)}, {"heads": (4, 9)}, {"heads": (7, 8)}), "node 'b' holds heads 4-8, but there is 0-7"),
        (({"kv_heads": (0, 1), "heads": (0, 4)}, {"heads": (4, 7)}, {}), "has heads and kv_heads; name one of them"),
    ):
        with pytest.raises(PlanError, match=message):
            validate(plan(*heads), home, eight)


def test_a_row_of_the_embedding_that_is_tied_and_split_alike_counts_once(homes):
    spec = homes.model(4, tied_head=True)
    shares = [Share("a", (0, 1), (0, 32), (0, 96)), Share("b", (1, 2), (32, 96), (96, 320))]
    tied, apart = (node_bytes(plan_of(one, *shares), one) for one in (spec, replace(spec, tied_head=False)))
    assert {node: apart[node].weights - tied[node].weights for node in "ab"} == {"a": 96 * 64 * 4, "b": 224 * 64 * 4}
