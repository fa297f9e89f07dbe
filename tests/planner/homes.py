"""Models and fleets for the planner's tests, by hand and drawn by hypothesis."""

from dataclasses import replace
from fractions import Fraction

from hypothesis import strategies as st

from potluck.models.spec import LayerSpec, ModelSpec, Part, PartKind, Rope
from potluck.planner.all_reduce import Algorithm, AllReduce, Wire
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.plan import Plan, Purpose, Residency, Route, Share, Stage
from potluck.planner.prediction import Breakdown, Prediction, Times

GIB = 2**30


def model(layers=4, window=None, **shape):
    """A llama of any shape; tiny where nothing is said."""
    tiny = {"vocab": 320, "hidden": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "head_dim": 16}
    rest = {"context": 512, "norm_eps": 1e-5, "attention_scale": 0.25}
    return ModelSpec("tiny", "llama", (LayerSpec(Rope(1e4), window),) * layers, **(tiny | rest | shape))


def node(name, gflops=60.0, memory=GIB, bandwidth=None, **rest):
    """A node whose memory streams a third of a byte per operation."""
    device = Device("cpu", gflops * 1e9, bandwidth or gflops * 1e9 / 3, memory)
    return Node(NodeName(name), (device,), **rest)


def fleet(*nodes, latency=0.3e-3, bandwidth=125e6, engine=None, links=()):
    """A fleet whose engine is the first node."""
    return Fleet(nodes, NodeName(engine) if engine else nodes[0].name, Link(latency, bandwidth), dict(links), "home")


def stage(name, *parts):
    """A stage of one node; a range is whole layers."""
    kinds = (PartKind.ATTENTION, PartKind.FFN)
    listed = []
    for part in parts:
        listed += [Part(kind, layer) for layer in part for kind in kinds] if isinstance(part, range) else [part]
    return Stage(tuple(listed), (Share(NodeName(name)),))


EMBEDDING, HEAD = Part(PartKind.EMBEDDING), Part(PartKind.HEAD)


def plan(*stages, dtype="float32", kv_tokens=64, **rest):
    """A plan with one route."""
    return Plan("tiny", dtype, (Route(stages),), kv_tokens, **rest)


# Drawn by hypothesis ------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "B", "7", "mini-pc", "nas.local", "my_laptop", "x" * 63, "true", "1e3", "layers"])
POSITIVE = st.floats(1e-3, 1e18) | st.integers(1, 10**15).map(float)


@st.composite
def models(draw, most_layers=12):
    heads, kv_heads = draw(st.sampled_from([(4, 2), (4, 4), (3, 1), (8, 2)]))
    return model(
        draw(st.integers(1, most_layers)),
        window=draw(st.none() | st.integers(1, 64)),
        vocab=draw(st.sampled_from([32, 320, 5000])),
        heads=heads,
        kv_heads=kv_heads,
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        post_norms=draw(st.booleans()),
        tied_head=draw(st.booleans()),
    )


@st.composite
def devices(draw):
    return Device(
        draw(st.sampled_from(["cpu", "cuda", "metal"])),
        draw(POSITIVE),
        draw(POSITIVE),
        draw(st.integers(1, 10**14)),
        draw(st.sampled_from(["", "Ryzen 5", "i5: old"])),
    )


@st.composite
def fleets(draw, most_nodes=5):
    """Any fleet that a file can describe."""
    names = draw(st.lists(NAMES, min_size=1, max_size=most_nodes, unique=True))
    own = st.lists(devices(), min_size=1, max_size=2).map(tuple)
    disks = st.just(0.0) | POSITIVE
    nodes = tuple(Node(NodeName(name), draw(own), draw(disks), draw(st.booleans())) for name in names)
    plain = st.builds(Link, st.floats(0, 10), POSITIVE)
    links = st.builds(Link, st.floats(0, 10), POSITIVE, st.none() | plain)
    pairs = [(a, b) for a in names for b in names if a != b]
    named = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    engine = draw(st.sampled_from(names))
    label = draw(st.text(min_size=1, max_size=8))
    return Fleet(nodes, NodeName(engine), draw(links), {pair: draw(links) for pair in named}, label)


@st.composite
def homes_of(draw, least, most, most_nodes=5):
    """Fleets whose nodes have between `least` and `most` bytes and speeds a hundredfold apart."""
    count = draw(st.integers(1, most_nodes))
    speeds = st.sampled_from([1.0, 3.0, 10.0, 12.0, 30.0, 60.0, 100.0])
    nodes = [node(f"n{index}", draw(speeds), draw(st.integers(least, most))) for index in range(count)]
    return fleet(*nodes, engine=draw(st.sampled_from(nodes)).name)


@st.composite
def shares(draw):
    def ranges():
        return st.tuples(st.integers(0, 50), st.integers(1, 50)).map(lambda pair: (pair[0], pair[0] + pair[1]))

    axis = draw(st.sampled_from(["kv_heads", "heads"]))
    residency = draw(st.sampled_from(Residency))
    ends = draw(st.lists(st.fractions(0, 1, max_denominator=64), min_size=2, max_size=2, unique=True))
    return Share(
        NodeName(draw(NAMES)),
        **{axis: draw(st.none() | ranges())},
        ffn_columns=draw(st.none() | ranges()),
        vocabulary=draw(st.none() | ranges()),
        experts=draw(st.none() | st.lists(st.integers(0, 64), min_size=1, max_size=3).map(tuple)),
        sequence=draw(st.just((Fraction(0), Fraction(1))) | st.just(tuple(sorted(ends)))),
        residency=residency,
        window=draw(st.none() | st.integers(1, 9)) if residency is Residency.STREAMED else None,
    )


@st.composite
def plans(draw, spec):
    """Any plan the types can say, right or wrong."""
    groups = st.lists(shares(), min_size=1, max_size=2).map(tuple)
    parts = st.lists(st.sampled_from(list(spec.parts())), min_size=1, max_size=8).map(tuple) | _runs(spec)
    kinds = st.dictionaries(st.sampled_from(PartKind), groups, max_size=2)
    sums = st.builds(AllReduce, st.none() | st.sampled_from(Algorithm), st.none() | st.sampled_from(Wire))
    stages = st.builds(Stage, parts, groups, kinds, sums).map(
        lambda stage: stage if stage.is_group else replace(stage, all_reduce=AllReduce())
    )
    routes = st.builds(Route, st.lists(stages, min_size=1, max_size=3).map(tuple), st.sampled_from(Purpose))
    sizes = st.dictionaries(NAMES.map(NodeName), st.integers(0, 2**50), max_size=3)
    times = st.floats(0, 1e6)
    split = st.builds(Times, *[times] * 7)
    breakdowns = st.none() | st.builds(Breakdown, split, st.lists(split, max_size=2).map(tuple))
    names = st.sampled_from(["", "node a", "link a -> b"])
    predictions = st.builds(Prediction, times, times, sizes, sizes, times, names, breakdowns, breakdowns)
    return Plan(
        model=draw(st.text(min_size=1, max_size=8)),
        dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        routes=tuple(draw(st.lists(routes, min_size=1, max_size=2))),
        kv_tokens=draw(st.integers(1, 2**40)),
        prediction=draw(st.none() | predictions),
        reasons=draw(st.dictionaries(NAMES.map(NodeName), st.text(min_size=1, max_size=20), max_size=3)),
    )


def _runs(spec):
    """Consecutive parts, as real stages have."""
    listed = list(spec.parts())
    ends = st.tuples(st.integers(0, len(listed) - 1), st.integers(1, len(listed)))
    return ends.map(lambda pair: tuple(listed[pair[0] : pair[0] + pair[1]]))
