"""Plan files: written short, read back equal, typos named."""

import json
from fractions import Fraction
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.models.spec import Part, PartKind
from potluck.planner.all_reduce import Algorithm, AllReduce, Wire
from potluck.planner.executable import executable_stages
from potluck.planner.fields import FieldError
from potluck.planner.fleet_file import fleet_from_data
from potluck.planner.goal import Goal
from potluck.planner.part_names import part_names
from potluck.planner.plan import Purpose, Residency, Share
from potluck.planner.plan_error import Spot
from potluck.planner.plan_file import line_at, plan_from_data, plan_to_data
from potluck.planner.solve import solve
from potluck.planner.validate import validate
from potluck.planner.yaml_text import read_yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
RING = """
model: smollm2
dtype: bfloat16
kv_tokens: 8192
stages:
  - {node: desktop, parts: [embedding, layers 0-9]}
  - {node: laptop, parts: [layers 10-19]}
  - {node: desktop, parts: [layers 20-29, head]}
"""


def trio():
    return fleet_from_data(read_yaml((resources.files("potluck.deploy") / "fleets" / "trio.yaml").read_text("utf-8")))


def test_a_plan_by_hand(smollm2):
    plan = plan_from_data(read_yaml(RING), smollm2)
    validate(plan, trio(), smollm2)
    stages = executable_stages(plan)
    assert [(stage.node, stage.layers) for stage in stages] == [
        ("desktop", range(10)),
        ("laptop", range(10, 20)),
        ("desktop", range(20, 30)),
    ]
    assert plan_to_data(plan) == read_yaml(RING)


def test_the_general_form(homes):
    plan = plan_from_data(
        read_yaml(
            """
            model: tiny
            dtype: float32
            kv_tokens: 64
            routes:
              - purpose: prefill
                stages:
                  - parts: [embedding, attention 0, ffn 0, layers 1-3, head]
                    shares:
                      - {node: a, kv_heads: 0, ffn_columns: 0-39, vocabulary: 0-99, residency: host}
                      - {node: b, kv_heads: 1, ffn_columns: 40-95, vocabulary: 100-319}
                    groups:
                      ffn: [{node: a, experts: [0, 2]}, {node: b, sequence: [1/2, 1]}]
              - stages:
                  - {node: c, parts: layers 0-3, residency: streamed}
            """
        ),
        homes.model(4),
    )
    prefill, serve = plan.routes
    assert (prefill.purpose, serve.purpose) == (Purpose.PREFILL, Purpose.SERVE)
    stage = prefill.stages[0]
    assert stage.parts == tuple(homes.model(4).parts())
    assert stage.shares[0] == Share("a", (0, 1), (0, 40), (0, 100), residency=Residency.HOST)
    half = Share("b", sequence=(Fraction(1, 2), Fraction(1)))
    assert stage.groups == {PartKind.FFN: (Share("a", experts=(0, 2)), half)}
    assert serve.stages[0].shares == (Share("c", residency=Residency.STREAMED),)


@given(st.data())
@settings(max_examples=60)
def test_round_trip(homes, data):
    spec = homes.model(4)
    plan = data.draw(homes.plans(spec))
    described = plan_to_data(plan)
    assert plan_from_data(described, spec) == plan
    assert plan_from_data(json.loads(json.dumps(described)), spec) == plan


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_solved_plan_survives_yaml(smollm2, rounds):
    plan = solve(trio(), smollm2, Goal(rounds=rounds))
    assert plan_from_data(read_yaml(yaml.safe_dump(plan_to_data(plan), sort_keys=False)), smollm2) == plan


def test_parts_are_written_short(homes):
    parts = tuple(homes.model(4).parts())
    assert part_names(parts) == ["embedding", "layers 0-3", "head"]
    assert part_names(parts[:3]) == ["embedding", "layer 0"]
    assert part_names(parts[2:6]) == ["ffn 0", "layer 1", "attention 2"]
    assert part_names([Part(PartKind.FFN, 1), Part(PartKind.ATTENTION, 1)]) == ["ffn 1", "attention 1"]


GROUPS = """
model: smollm2
dtype: bfloat16
kv_tokens: 8192
stages:
  - {node: desktop, parts: embedding}
  - parts: layers 0-29
    nodes: [desktop, laptop, nas]
    split: [5, 2, 1]
    residency: streamed
    window: 2
    all_reduce: {algorithm: direct, wire: auto}
  - parts: head
    shares: [{node: nas, heads: 0-8, vocabulary: 0-16383}, {node: laptop, vocabulary: 16384-49151}]
"""


def test_groups_by_proportions_and_by_shares(smollm2):
    plan = plan_from_data(read_yaml(GROUPS), smollm2)
    _, layers, head = plan.routes[0].stages
    kept = {"residency": Residency.STREAMED, "window": 2}
    assert layers.shares == (
        Share("desktop", None, (0, 1024), heads=(0, 6), **kept),
        Share("laptop", None, (1024, 1280), heads=(6, 8), **kept),
        Share("nas", None, (1280, 1536), heads=(8, 9), **kept),
    )
    assert layers.all_reduce == AllReduce(Algorithm.DIRECT) and head.all_reduce == AllReduce()
    wired = plan_from_data(read_yaml(GROUPS.replace("wire: auto", "wire: int8-feedback")), smollm2)
    assert wired.routes[0].stages[1].all_reduce.wire is Wire.INT8_FEEDBACK
    assert head.shares == (Share("nas", None, None, (0, 16384), (0, 9)), Share("laptop", None, None, (16384, 49152)))
    described = plan_to_data(plan)
    assert described["stages"][1]["shares"][2]["heads"] == 8, "a single one is a number"
    assert described["stages"][1]["all_reduce"] == {"algorithm": "direct"}
    assert described["stages"][1]["shares"][1] == {
        "node": "laptop",
        "heads": "6-7",
        "ffn_columns": "1024-1279",
        "residency": "streamed",
        "window": 2,
    }
    assert plan_from_data(described, smollm2) == plan


WRONG_GROUPS = [
    ("split: [5, 2, 1]", "", "stage 2: 'nodes' and 'split' need each other"),
    ("split: [5, 2, 1]", "split: [5, 2]", "stage 2: split has 2 numbers for 3 nodes; give one for each"),
    ("split: [5, 2, 1]", "split: [5, 2, 0]", "stage 2: split: 0 is no proportion"),
    ("split: [5, 2, 1]", "split: [5, 2, .nan]", "stage 2: split: nan is no proportion"),
    ("split: [5, 2, 1]", "split: 5", "stage 2: split must be a list"),
    ("[desktop, laptop, nas]", "[desktop, laptop, 3]", "stage 2: node must be text, not the number 3"),
    ("[desktop, laptop, nas]", "desktop", "stage 2: nodes must be a list"),
    ("nodes: [desktop, laptop, nas]", "node: desktop", "stage 2: 'nodes' and 'split' need each other"),
    ("window: 2", "window: 0", "stage 2: window must be a whole number of at least 1, not 0"),
    ("residency: streamed", "", "stage 2: 'window' is for layers read from disk; say residency: streamed"),
    ("direct", "dirct", "stage 2: all_reduce: algorithm: 'dirct' is not known; did you mean 'direct'?"),
    ("wire: auto", "wire: float16", "stage 2: all_reduce: wire: 'float16' is not known"),
    ("wire: auto", "wires: auto", "stage 2: all_reduce: unknown field 'wires'; did you mean 'wire'?"),
    ("parts: embedding", "parts: embedding, all_reduce: {}", "stage 1: 'all_reduce' is for a stage of several nodes"),
    ("heads: 0-8", "heads: 0-8, kv_heads: 0", "stage 3: shares: 1: give either 'kv_heads' or 'heads'"),
    ("parts: head\n", "parts: head\n    window: 2\n", "stage 3: field 'window' belongs into the entries of 'shares'"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), WRONG_GROUPS)
def test_mistakes_in_groups_are_named(smollm2, right, wrong, message):
    assert right in GROUPS
    with pytest.raises(FieldError) as error:
        plan_from_data(read_yaml(GROUPS.replace(right, wrong, 1)), smollm2)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_model_that_does_not_go_to_so_many_nodes(homes):
    nodes = [f"n{number}" for number in range(5)]
    stage = {"parts": "layer 0", "nodes": nodes, "split": [1] * 5}
    with pytest.raises(FieldError, match="stage 1: the model's 4 query heads do not go to 5 nodes; leave nodes out"):
        plan_from_data({"model": "tiny", "dtype": "float32", "kv_tokens": 1, "stages": [stage]}, homes.model(1))


WRONG = [
    ("bfloat16", "bf16", "dtype: 'bf16' is not known; did you mean"),
    ("dtype: bfloat16\n", "", "the plan file: field 'dtype' is missing"),
    ("kv_tokens: 8192", "kv_tokens: many", "kv_tokens must be a whole number of at least 1, not 'many'"),
    ("kv_tokens: 8192", "kv_token: 8192", "unknown field 'kv_token'; did you mean 'kv_tokens'?"),
    ("kv_tokens: 8192", "kv_tokens: true", "kv_tokens must be a whole number"),
    ("model: smollm2", "model: 135", "model must be text, not the number 135"),
    ("stages:", "stage:", "unknown field 'stage'; did you mean 'stages'?"),
    ("stages:", "predicted: {}\nstages:", "predicted: field 'time_to_first_token' is missing"),
    ("stages:", "reasons: {desktop: 5}\nstages:", "reasons: desktop must be text"),
    ("stages:", "routes: []\nstages:", "either 'stages' (one route) or 'routes'"),
    ("layers 10-19", "layer 10-19x", "stage 2: parts: 'layer 10-19x' is no part"),
    ("layers 10-19", "layers 10-30", "stage 2: parts: 'layers 10-30': model 'tiny' has layers 0-29"),
    ("layers 10-19", "layers 19-10", "stage 2: parts: 'layers 19-10'"),
    ("layers 10-19", "leyers 10-19", "stage 2: parts: 'leyers 10-19' is no part; did you mean 'layers'?"),
    ("embedding", "embeding", "stage 1: parts: 'embeding' is no part; did you mean 'embedding'?"),
    ("head]", "haed]", "stage 3: parts: 'haed' is no part; did you mean 'head'?"),
    ("[layers 10-19]", "[]", "stage 2: parts is empty"),
    ("[layers 10-19]", "[3]", "stage 2: parts must be text, not the number 3"),
    ("node: laptop, ", "", "stage 2: give either 'node' or 'shares'"),
    ("node: laptop", "nod: laptop", "stage 2: unknown field 'nod'; did you mean 'node'?"),
    ("node: laptop", "node: [laptop]", "stage 2: node must be text, not a list"),
    (
        "node: laptop",
        "node: laptop, residency: hosts",
        "stage 2: residency: 'hosts' is not known; did you mean 'host'?",
    ),
    ("node: laptop", "shares: [{node: a}], residency: host", "'residency' belongs into the entries of 'shares'"),
    ("node: laptop", "shares: [{node: a, kv_heads: x}]", "stage 2: shares: 1: kv_heads must be a range such as 0-2"),
    ("node: laptop", "shares: [{node: a, kv_heads: 2-1}]", "runs backwards"),
    ("node: laptop", "shares: [{node: a, kv_heads: true}]", "kv_heads must be a range"),
    ("node: laptop", "shares: [{node: a, sequence: [0, 2]}]", "sequence must lie between 0 and 1"),
    ("node: laptop", "shares: [{node: a, sequence: [0, 1/0]}]", "'1/0' is no fraction"),
    ("node: laptop", "shares: [{node: a, sequence: [0]}]", "sequence must be two fractions"),
    ("node: laptop", "shares: [{node: a, experts: [-1]}]", "experts must be a whole number of at least 0, not -1"),
    ("node: laptop", "node: a, groups: {fnn: []}", "stage 2: groups: unknown field 'fnn'; did you mean 'ffn'?"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), WRONG)
def test_mistakes_are_named(smollm2, right, wrong, message):
    assert right in RING
    with pytest.raises(FieldError) as error:
        plan_from_data(read_yaml(RING.replace(right, wrong, 1)), smollm2)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_route_names_itself_in_messages(smollm2):
    described = {**read_yaml(RING), "routes": [{"purpose": "sevre", "stages": read_yaml(RING)["stages"]}]}
    del described["stages"]
    with pytest.raises(FieldError, match="route 1, purpose: 'sevre' is not known; did you mean 'serve'"):
        plan_from_data(described, smollm2)


WORDS = ["model", "dtype", "kv_tokens", "stages", "routes", "node", "parts", "shares", "groups", "sequence", "ffn"]
WORDS += ["nodes", "split", "window", "all_reduce", "heads"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["layers 0-1", "0-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(WORDS), VALUES))
def test_nonsense_never_gets_a_traceback(homes, value):
    base = {"model": "tiny", "dtype": "float32", "kv_tokens": 64}
    try:
        plan_from_data(base | value, homes.model(4))
    except FieldError as error:
        assert "\n" not in str(error)


def test_the_documentation_shows_plans_that_read(smollm2):
    blocks = (DOCS / "plan-file.md").read_text("utf-8").split("```yaml\n")[1:]
    plans = [plan_from_data(read_yaml(block.split("```")[0]), smollm2) for block in blocks]
    assert len(plans) >= 3
    for plan in plans:
        validate(plan, trio(), smollm2)


MISTAKES = """model: tiny
dtype: float32
kv_tokens: 64
stages:
  - node: desktop
    parts:
      - embedding
      - layer 0
    residency: hosts
  - parts: [layers 1-3, head]
    shares:
      - {node: desktop,
         kv_heads: 0}
      - node: laptop
        kv_heads: x
"""


def test_messages_begin_with_the_line(homes):
    def said(text):
        with pytest.raises(FieldError) as error:
            plan_from_data(read_yaml(text), homes.model(4))
        return str(error.value)

    first, second = MISTAKES.replace("hosts", "resident"), "stage 2: shares: 2: kv_heads must be a range"
    assert said(MISTAKES).startswith("line 9: stage 1: residency: 'hosts' is not known")
    assert said(first).startswith(f"line 15: {second}")
    several = first.replace("stages:", "routes:\n- stages:")
    assert said(several).startswith(f"line 16: route 1, {second.replace('stage 2', 'stage 2')}")
    assert said(first.replace("x\n", "1\n    window: 2\n")).startswith("line 16: stage 2: field 'window' belongs")
    assert said(first.replace("kv_heads: x", "kv_heads: 1\n    all_reduce: {wire: far}")).startswith("line 16: ")
    assert said(first.replace("float32", "f23")).startswith("line 2: dtype: 'f23' is not known")
    assert said(first.replace("[layers 1-3, head]", "[layers 1-9]")).startswith("line 10: stage 2: parts: 'layers 1-9'")


def test_a_spot_in_a_plan_has_its_line():
    data = read_yaml(MISTAKES)
    lines = {
        Spot(stage=1): 5,
        Spot(stage=1, key="residency"): 9,
        Spot(stage=1, share=1, key="residency"): 9,
        Spot(stage=1, share=1, key="window"): 5,
        Spot(stage=2): 10,
        Spot(stage=2, share=1): 12,
        Spot(stage=2, share=1, key="kv_heads"): 13,
        Spot(stage=2, share=2): 14,
        Spot(stage=9): 0,
        Spot(): 0,
    }
    assert {spot: line_at(data, spot) for spot in lines} == lines
    several = read_yaml("routes:\n- purpose: draft\n  stages:\n  - node: a\n- stages:\n  - node: b\n")
    spots = Spot(1, key="purpose"), Spot(2), Spot(2, 1), Spot(2, 1, 1), Spot(1, 1)
    assert [line_at(several, spot) for spot in spots] == [2, 5, 6, 6, 4]
    assert line_at({"stages": [{"node": "a"}]}, Spot(stage=1)) == 0, "no file"
    assert line_at(None, Spot(stage=1)) == 0
