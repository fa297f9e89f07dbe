"""Plans by hand: what is wrong with them is said, and what is right passes."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.models.spec import Part, PartKind
from potluck.planner.all_reduce import Algorithm, AllReduce, Wire
from potluck.planner.executable import executable_stages
from potluck.planner.memory import NODE_OVERHEAD, node_bytes
from potluck.planner.plan import Plan, Purpose, Residency, Route, Share, Stage
from potluck.planner.tiling import tiles
from potluck.planner.validate import PlanError, validate

HALF = Fraction(1, 2)


@pytest.fixture
def home(homes):
    return homes.fleet(homes.node("desktop"), homes.node("laptop"))


@pytest.fixture
def ring(homes):
    return homes.plan(
        homes.stage("desktop", homes.EMBEDDING, range(1)),
        homes.stage("laptop", range(1, 2)),
        homes.stage("desktop", range(2, 4)),
        homes.stage("laptop", homes.HEAD),
    )


def refused(plan, fleet, spec):
    with pytest.raises(PlanError) as error:
        validate(plan, fleet, spec)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_ring_by_hand_is_right(homes, home, ring):
    validate(ring, home, homes.model(4))
    assert executable_stages(ring) == ring.routes[0].stages


def test_small_mistakes(homes, home, ring):
    spec = homes.model(4)
    assert "dtype 'float23' is not known; did you mean 'float32'?" in refused(
        replace(ring, dtype="float23"), home, spec
    )
    assert "kv_tokens must be at least 1, not 0" in refused(replace(ring, kv_tokens=0), home, spec)
    assert "no route" in refused(replace(ring, routes=()), home, spec)
    elsewhere = homes.plan(homes.stage("lapptop", homes.EMBEDDING, range(4), homes.HEAD))
    assert "has no node 'lapptop'; did you mean 'laptop'?" in refused(elsewhere, home, spec)
    assert "stage 1 has no parts" in refused(homes.plan(homes.stage("laptop")), home, spec)


def test_coverage(homes, home):
    spec, model_parts = homes.model(4), (homes.EMBEDDING, range(4), homes.HEAD)

    def plan(*listed):
        return homes.plan(*(homes.stage("desktop", *parts) for parts in listed))

    validate(plan(model_parts), home, spec)
    assert refused(plan(model_parts[:2]), home, spec) == (
        "stage 1: head is in no stage; add 'head' to the parts here, or a stage with it after this one"
    )
    gap = plan((homes.EMBEDDING, range(2)), (range(3, 4), homes.HEAD))
    assert "stage 1: layer 2 is in no stage; add 'layer 2' to the parts here" in refused(gap, home, spec)
    beginning = refused(plan((range(2, 4), homes.HEAD)), home, spec)
    assert beginning.startswith("stage 1: embedding, layers 0-1 are in no stage; add 'embedding', 'layers 0-1' to the ")
    assert beginning.endswith("or a stage with them before this one")
    twice = plan((homes.EMBEDDING, range(3)), (range(2, 4), homes.HEAD))
    assert "stage 2: layer 2 is in stages 1 and 2; leave it in one" in refused(twice, home, spec)
    again = plan((homes.EMBEDDING, range(4), range(1, 3), homes.HEAD))
    assert "stage 1: layers 1-2 are in it twice; name them once" in refused(again, home, spec)
    turned = plan((homes.EMBEDDING, range(2, 4)), (range(2), homes.HEAD))
    assert "stage 1: layers 2-3 come where layer 0 is due" in refused(turned, home, spec)
    beyond = plan((homes.EMBEDDING, range(6), homes.HEAD))
    assert "stage 1: model 'tiny' has no layers 4-5; it has layers 0-3" in refused(beyond, home, spec)


@given(st.data())
def test_only_the_parts_in_order_are_right(homes, data):
    spec = homes.model(data.draw(st.integers(1, 3)))
    wanted = list(spec.parts())
    parts = data.draw(st.permutations(wanted) | st.lists(st.sampled_from(wanted), min_size=1, max_size=8))
    cut = data.draw(st.integers(0, len(parts)))
    listed = [homes.stage("a", *some) for some in (parts[:cut], parts[cut:]) if some]
    plan, home = homes.plan(*listed), homes.fleet(homes.node("a"))
    if list(parts) == wanted:
        validate(plan, home, spec)
    else:
        refused(plan, home, spec)


def test_memory_with_kv(homes, ring):
    spec = homes.model(4)
    sizes = node_bytes(ring, spec)
    exact = [homes.node(name, memory=size.total) for name, size in sizes.items()]
    validate(ring, homes.fleet(*exact), spec)
    short = homes.fleet(exact[0], homes.node("laptop", memory=sizes["laptop"].total - 1))
    text = refused(ring, short, spec)
    assert "node 'laptop' has" in text and "move layers to another node or lower kv_tokens" in text
    assert "node 'desktop'" in refused(replace(ring, kv_tokens=65), homes.fleet(*exact), spec)


# Groups: the types carry them, validation knows them, execution is later work ----------------------------------------


def grouped(homes, shares, kind_shares=None):
    """A plan whose only stage is run by a group."""
    parts = tuple(homes.model(4).parts())
    return Plan("tiny", "float32", (Route((Stage(parts, shares, kind_shares or {}),)),), 64)


COLUMNS = ("kv_heads", (0, 1), (1, 2)), ("ffn_columns", (0, 32), (32, 96)), ("vocabulary", (0, 96), (96, 320))


def tensor_parallel():
    return tuple(
        Share(name, **{axis: held[index] for axis, *held in COLUMNS})
        for index, name in enumerate(("desktop", "laptop"))
    )


def test_tensor_parallel_shares_tile(homes, home):
    spec, shares = homes.model(4), tensor_parallel()
    plan = grouped(homes, shares)
    validate(plan, home, spec)
    whole = node_bytes(grouped(homes, (Share("desktop"),)), spec)["desktop"]
    sizes = node_bytes(plan, spec)
    norms = 4 * (4 * 2 + 1) * 64
    assert sum(size.weights for size in sizes.values()) == whole.weights + norms
    assert sum(size.kv for size in sizes.values()) == whole.kv == 2 * sizes["laptop"].kv
    for axis in ("kv_heads", "ffn_columns", "vocabulary"):
        overlapping = (replace(shares[0], **{axis: None}), shares[1])
        assert f"do not tile {axis}" in refused(grouped(homes, overlapping), home, spec)
    gap = (shares[0], replace(shares[1], ffn_columns=(33, 96)))
    told = refused(grouped(homes, gap), home, spec)
    assert "stage 1, ffn: the shares do not tile ffn_columns 0-95" in told and "ffn_columns 32 are in no share" in told
    twice = (replace(shares[0], vocabulary=(0, 130)), shares[1])
    told = refused(grouped(homes, twice), home, spec)
    assert "vocabulary 96-129 are in those of 'desktop' and 'laptop'" in told
    outside = (shares[0], replace(shares[1], kv_heads=(1, 3)))
    assert "node 'laptop' holds kv_heads 1-2, but there is 0-1" in refused(grouped(homes, outside), home, spec)


def test_sequence_shares_tile_and_split_kv(homes, home):
    spec = homes.model(4)
    shares = (Share("desktop", sequence=(Fraction(0), HALF)), Share("laptop", sequence=(HALF, Fraction(1))))
    validate(grouped(homes, shares), home, spec)
    sizes = node_bytes(grouped(homes, shares), spec)
    assert sizes["desktop"].kv == sizes["laptop"].kv == 4 * 64 * 64 * 4 // 2
    gap = (shares[0], replace(shares[1], sequence=(Fraction(2, 3), Fraction(1))))
    assert "kv_heads 0-1 of positions 1/2 to 2/3 are in no share" in refused(grouped(homes, gap), home, spec)


def test_attention_and_ffn_on_groups_of_their_own(homes, home):
    spec = homes.model(4)
    columns = tuple(Share(share.node, ffn_columns=share.ffn_columns) for share in tensor_parallel())
    plan = grouped(homes, (Share("desktop"),), {PartKind.FFN: columns})
    validate(plan, home, spec)
    assert node_bytes(plan, spec)["laptop"].kv == 0
    stage = replace(homes.stage("desktop", homes.EMBEDDING), groups={PartKind.FFN: columns})
    rest = homes.plan(stage, homes.stage("desktop", range(4), homes.HEAD))
    assert "a group for ffn, but the stage has no such part" in refused(rest, home, spec)


@pytest.mark.parametrize("absurd", [5, 10**9, 10**400])
def test_windows_and_pieces_beyond_all_bounds(homes, home, absurd):
    spec = homes.model(4)
    share = Share("desktop", residency=Residency.STREAMED, window=4)
    validate(grouped(homes, (share,)), home, spec)
    told = refused(grouped(homes, (replace(share, window=absurd),)), home, spec)
    assert "but model 'tiny' has 4; name at most 4" in told and len(told) < 200
    for pieces in (0, 60 + absurd):
        stage = replace(grouped(homes, tensor_parallel()).routes[0].stages[0], all_reduce=AllReduce(pieces=pieces))
        told = refused(homes.plan(stage), home, spec)
        assert "pieces; possible are 1 to 64" in told and len(told) < 200


def test_odd_groups(homes, home):
    spec = homes.model(4)
    assert "a node is in the group twice" in refused(grouped(homes, (Share("desktop"),) * 2), home, spec)
    assert "has no experts" in refused(grouped(homes, (Share("desktop", experts=(0,)),)), home, spec)
    assert "the group is empty" in refused(grouped(homes, ()), home, spec)


def test_a_rectangle_more_or_less_is_no_tiling():
    whole, first, second = (Fraction(0), Fraction(1)), (Fraction(0), HALF), (HALF, Fraction(1))
    quarters = [(one, two) for one in (first, second) for two in (first, second)]
    assert tiles([(whole, whole)]) and tiles(quarters) and tiles([(whole, first), (first, second), (second, second)])
    assert not tiles(quarters[1:]) and not tiles([*quarters, (first, first)]) and not tiles([])
    assert not tiles([quarters[0], quarters[0], quarters[1], quarters[2]])


def test_8_bits_with_feedback_are_refused_where_they_could_not_work(homes, home):
    def asking(*asked):
        (stage,) = grouped(homes, tensor_parallel()).routes[0].stages
        return homes.plan(replace(stage, all_reduce=AllReduce(*asked)))

    spec, normed = homes.model(4), homes.model(4, post_norms=True)
    for algorithm in (None, Algorithm.STAR, Algorithm.DIRECT):
        validate(asking(algorithm, Wire.INT8_FEEDBACK), home, spec)
    validate(asking(Algorithm.RING, Wire.INT8), home, normed)
    together = "stage 1: wire int8-feedback and algorithm ring do not go together; use star or direct"
    assert together in refused(asking(Algorithm.RING, Wire.INT8_FEEDBACK), home, spec)
    whole = "stage 1: wire int8-feedback needs whole sums"
    assert whole in refused(asking(None, Wire.INT8_FEEDBACK, 2), home, spec)
    norms = "stage 1: wire int8-feedback cannot make good what a norm after the sum changes, and model 'tiny' has such"
    assert norms in refused(asking(None, Wire.INT8_FEEDBACK), home, normed)


def test_what_this_version_does_not_run(homes, home, ring):
    spec = homes.model(4)
    validate(grouped(homes, tensor_parallel()), home, spec)
    assert executable_stages(grouped(homes, tensor_parallel()))[0].is_group
    columns = tuple(Share(share.node, ffn_columns=share.ffn_columns) for share in tensor_parallel())
    halves = (Share("desktop", sequence=(Fraction(0), HALF)), Share("laptop", sequence=(HALF, Fraction(1))))
    for shares, kinds, message in (
        ((Share("desktop"),), {PartKind.FFN: columns}, "stage 1 has a group of its own for ffn; this version"),
        (halves, {}, "stage 1, node 'desktop': this version does not split the sequence"),
        ((Share("desktop", experts=(0,)),), {}, "stage 1, node 'desktop': this version runs no experts"),
    ):
        with pytest.raises(PlanError, match=message):
            executable_stages(grouped(homes, shares, kinds))
    two = replace(
        ring, routes=(Route(ring.routes[0].stages, Purpose.PREFILL), Route(ring.routes[0].stages, Purpose.DECODE))
    )
    validate(two, home, spec)
    assert node_bytes(two, spec) == node_bytes(ring, spec), "what two routes share on a node costs once"
    with pytest.raises(PlanError, match="route 1: purpose prefill; this version runs routes that serve"):
        executable_stages(two)
    same = replace(ring, routes=ring.routes * 2)
    with pytest.raises(PlanError, match="is in routes 1 and 2; give each route nodes of its own"):
        executable_stages(same)
    hosted = grouped(homes, (Share("desktop", residency=Residency.HOST),))
    with pytest.raises(
        PlanError, match="stage 1, node 'desktop': this version does not run residency host; say streamed"
    ):
        executable_stages(hosted)
    cut = Part(PartKind.ATTENTION, 0)
    halved = homes.plan(
        homes.stage("desktop", homes.EMBEDDING, cut),
        homes.stage("desktop", Part(PartKind.FFN, 0), range(1, 4), homes.HEAD),
    )
    validate(halved, home, spec)
    with pytest.raises(PlanError, match="stage 1 cuts through a layer"):
        executable_stages(halved)


def test_a_draft_of_another_model_is_not_measured_by_this_one(homes, home, ring):
    draft = Route((homes.stage("laptop", homes.EMBEDDING, homes.HEAD),), Purpose.DRAFT)
    plan = replace(ring, routes=(*ring.routes, draft))
    validate(plan, home, homes.model(4))
    assert node_bytes(plan, homes.model(4)) == node_bytes(ring, homes.model(4))
    assert all(size.total > NODE_OVERHEAD for size in node_bytes(plan, homes.model(4)).values())
