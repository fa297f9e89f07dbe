"""Fleet files: what they may say, and what each typo gets as an answer."""

import json
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.models.costs import FormatSpeed
from potluck.planner.catalogue import catalogue_from_data
from potluck.planner.fields import FieldError
from potluck.planner.fleet import Link
from potluck.planner.fleet_file import fleet_from_data, fleet_to_data
from potluck.planner.yaml_text import read_yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
NODE = "{flops: 60 GFLOPS, memory_bandwidth: 20 GB/s, memory: 8 GiB}"
LINKS = "links: {default: {latency: 0.3 ms, bandwidth: 1 Gbit}}"


def shipped(name):
    return (resources.files("potluck.deploy") / name).read_text("utf-8")


CATALOGUE = catalogue_from_data(read_yaml(shipped("catalogue.yaml")))


def read(text):
    return fleet_from_data(read_yaml(text), CATALOGUE)


def test_every_field():
    fleet = read(
        f"""
        name: trio
        engine: b
        nodes:
          a: {{flops: 60 GFLOPS, memory_bandwidth: 20 GB/s, memory: 8 GiB, disk: 2 GB/s, device: Ryzen 5}}
          b: {{flops: 1e9, memory_bandwidth: 1 GB/s, memory: 1073741824, checkpoint: false}}
          c:
            disk: 500 MB/s
            devices:
              - {NODE}
              - {{kind: cuda, name: RTX 3060, flops: 12 TFLOPS, memory_bandwidth: 360 GB/s, memory: 12 GiB}}
        links:
          default: {{latency: 0.3 ms, bandwidth: 1 Gbit}}
          a - b: {{latency: 3 ms, bandwidth: 300 Mbit}}
          b -> c: {{latency: 0, bandwidth: 10 MB/s}}
        """
    )
    a, b, c = fleet.nodes
    assert (fleet.name, fleet.engine) == ("trio", "b")
    assert (a.device.flops, a.device.memory_bandwidth, a.device.memory) == (60e9, 20e9, 8 * 2**30)
    assert (a.disk_bandwidth, a.device.name, a.device.kind, a.checkpoint) == (2e9, "Ryzen 5", "cpu", True)
    assert (b.checkpoint, b.disk_bandwidth) == (False, 0.0)
    assert [device.kind for device in c.devices] == ["cpu", "cuda"] and c.device.name == "RTX 3060"
    assert fleet.link("a", "b") == fleet.link("b", "a") == Link(0.003, 37.5e6)
    assert fleet.link("b", "c") == Link(0.0, 10e6) and fleet.link("c", "b") == Link(0.0003, 125e6)


def test_what_a_measured_node_tells():
    fleet = read(
        """
        nodes:
          a:
            flops: 60 GFLOPS
            memory_bandwidth: 20 GB/s
            memory: 8 GiB
            memory_total: 16 GiB
            formats: {Q4_0: {flops: 90 GFLOPS, bandwidth: 9 GB/s}, attention: {flops: 70 GFLOPS, bandwidth: 8 GB/s}}
            layer_overhead: 20 us
            disk: 2 GB/s
            disk_random: 300 MB/s
            cores: 1.5
            swap: 4 GiB
            swap_free: 1 GiB
        """
    )
    (node,) = fleet.nodes
    assert node.device.formats == {"Q4_0": FormatSpeed(90e9, 9e9), "attention": FormatSpeed(70e9, 8e9)}
    assert (node.device.layer_overhead, node.device.memory_total) == (20e-6, 16 * 2**30)
    assert (node.disk_random, node.cores, node.swap, node.swap_free) == (300e6, 1.5, 4 * 2**30, 2**30)


def test_the_engine_is_the_first_node_and_a_lone_node_needs_no_links():
    fleet = read(f"nodes: {{only: {NODE}}}")
    assert (fleet.engine, fleet.name) == ("only", "fleet")


WRONG = [
    ("", "the fleet file must be a table of fields, not empty"),
    ("[a, b]", "must be a table of fields, not a list"),
    ("nodes: {}", "at least one node"),
    (LINKS, "field 'nodes' is missing"),
    (f"node: {{a: {NODE}}}", "the fleet file: unknown field 'node'; did you mean 'nodes'?"),
    ("nodes: {a: {flop: 1}}", "node 'a': unknown field 'flop'; did you mean 'flops'?"),
    ("nodes: {a: {Flops: 1}}", "did you mean 'flops'?"),
    ("nodes: {a: {flops: 60 GFLOPS, memory: 1 GiB}}", "node 'a': field 'memory_bandwidth' is missing"),
    ("nodes: {a: {flops: 60 GHz, memory_bandwidth: 1, memory: 1}}", "node 'a': flops: '60 GHz': 'GHz' is not a unit"),
    ("nodes: {a: {flops: 60, memory_bandwidth: 1, memory: 8 Gb}}", "node 'a': memory: '8 Gb': 'Gb' is not"),
    ("nodes: {a: {flops: 0, memory_bandwidth: 1, memory: 1}}", "node 'a': flops: must be more than zero"),
    ("nodes: {a: {flops: 1, memory_bandwidth: 1, memory: 0.5}}", "node 'a': memory: 0.5 is not a whole number"),
    ("nodes: {a: }", "node 'a' must be a table of fields, not empty"),
    ("nodes: {1: {}}", "nodes: the name 1 is the number 1; put it in quotes"),
    ("nodes: {a b: {}}", "node 'a b': a name has letters"),
    ("nodes: {default: {}}", "node 'default'"),
    (f"nodes: {{a: {NODE}, a: {NODE}}}", "line 1: 'a' is given twice"),
    (f"nodes: {{a: {NODE}, b: {NODE}}}", "links: 'default' is missing; add for example"),
    (f"engine: desktpo\nnodes: {{desktop: {NODE}}}", "engine: 'desktpo' is not known; did you mean 'desktop'?"),
    (f"engine: 5\nnodes: {{desktop: {NODE}}}", "engine: 5 is not known"),
    (f"name: 5\nnodes: {{desktop: {NODE}}}", "name must be text, not the number 5"),
    ("nodes: {a: {devices: []}}", "node 'a': devices is empty"),
    ("nodes: {a: {devices: {}}}", "node 'a': devices must be a list, not a table"),
    ("nodes: {a: {devices: [{flops: 1}]}}", "node 'a': device 1: field 'memory_bandwidth' is missing"),
    ("nodes: {a: {flops: 1, devices: [1]}}", "node 'a': field 'flops' belongs into the entries of 'devices'"),
    (f"nodes: {{a: {NODE[:-1]}, kind: gpu}}}}", "node 'a': kind: 'gpu' is not known"),
    (f"nodes: {{a: {NODE[:-1]}, checkpoint: maybe}}}}", "node 'a': checkpoint must be true or false, not 'maybe'"),
    (f"nodes: {{a: {NODE[:-1]}, disk: 2 GB}}}}", "node 'a': disk: '2 GB': 'GB' is not a unit of a bandwidth"),
    ("nodes: {a: &x {b: *x}}", "node 'a': unknown field 'b'"),
    ("nodes: [", "not valid YAML"),
    ("nodes: !!python/object/apply:os.system [ls]", "not valid YAML"),
]
WRONG_LINKS = [
    ("{}", "links: 'default' is missing"),
    ("{default: {latency: 1 ms}}", "link 'default': field 'bandwidth' is missing"),
    ("{default: {latency: 1 ms, bandwidth: 1 GB}}", "link 'default': bandwidth: '1 GB': 'GB' is not a unit"),
    ("{default: {latency: 1 ms, bandwidth: 0}}", "link 'default': bandwidth: must be more than zero"),
    ("{default: {latency: -1, bandwidth: 1}}", "link 'default': latency: -1 is out of range"),
    ("{default: {latency: 1, bandwith: 1}}", "link 'default': unknown field 'bandwith'; did you mean 'bandwidth'?"),
    ("{default: D, a - lapptop: D}", "link 'a - lapptop': there is no node 'lapptop'; did you mean 'laptop'?"),
    ("{default: D, a-laptop: D}", "link 'a-laptop': write 'default', 'a - b' (both directions) or 'a -> b'"),
    ("{default: D, a - a: D}", "a node needs no link to itself"),
    ("{default: D, a - laptop: D, laptop -> a: D}", "link 'laptop -> a': the direction laptop -> a was given before"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_mistakes_are_named(text, message):
    with pytest.raises(FieldError) as error:
        read(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("links", "message"), WRONG_LINKS)
def test_mistakes_in_links_are_named(links, message):
    described = links.replace(": D", ": {latency: 1 ms, bandwidth: 1 Gbit}")
    test_mistakes_are_named(f"nodes: {{a: {NODE}, laptop: {NODE}}}\nlinks: {described}", message)


LONG = f"""name: long
engine: a
nodes:
  a:
    flops: 60 GFLOPS
    memory_bandwidth: 20 GB/s
    memory: 8 GiB
  laptop: {NODE}
  c:
    devices:
      - {NODE}
      - kind: cuda
        flops: 12 TFLOPS
        memory_bandwidth: 360 GB/s
        memory: 12 GiB
links:
  default: {{latency: 1 ms, bandwidth: 1 Gbit}}
  a - laptop:
    latency: 1 ms
    bandwidth: 300 Mbit
"""


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("engine: a", "engine: b", "line 2: engine: 'b' is not known"),
        ("engine: a", "motor: a", "line 2: the fleet file: unknown field 'motor'"),
        ("60 GFLOPS\n", "60 GHz\n", "line 5: node 'a': flops: '60 GHz': 'GHz' is not a unit"),
        (
            "20 GB/s\n",
            "8 GBs\n",
            "line 6: node 'a': memory_bandwidth: '8 GBs': 'GBs' is not a unit of a bandwidth; did",
        ),
        ("20 GB/s\n", "0 GB/s\n", "line 6: node 'a': memory_bandwidth: must be more than zero"),
        ("    memory: 8 GiB\n", "", "line 4: node 'a': field 'memory' is missing"),
        (
            "    memory: 8 GiB\n",
            "    memory: 8 GiB\n    formats: {Q4_O: {flops: 1, bandwidth: 1}}\n",
            "line 8: node 'a': formats: 'Q4_O' is not known; did you mean 'Q4_",
        ),
        (
            "    memory: 8 GiB\n",
            "    memory: 8 GiB\n    formats: {Q4_0: {flops: 9 GFLOPS}}\n",
            "line 8: node 'a': formats: Q4_0: field 'bandwidth' is missing",
        ),
        (
            "    memory: 8 GiB\n",
            "    memory: 8 GiB\n    cores: some\n",
            "line 8: node 'a': cores must be a number of at least 0, not 'some'",
        ),
        (
            "    memory: 8 GiB\n",
            "    memory: 8 GiB\n    layer_overhead: 3 GB\n",
            "line 8: node 'a': layer_overhead: '3 GB': 'GB' is not a unit of a time",
        ),
        ("    memory: 8 GiB\n", "    memroy: 8 GiB\n", "line 7: node 'a': unknown field 'memroy'"),
        ("laptop: {", "lap top: {", "line 8: node 'lap top': a name has letters"),
        ("12 TFLOPS", "12 T", "line 13: node 'c': device 2: flops: '12 T'"),
        ("        memory: 12 GiB\n", "", "line 12: node 'c': device 2: field 'memory' is missing"),
        ("  default:", "  defualt:", "line 16: links: 'default' is missing"),
        (
            "1 Gbit",
            "10 Gbits",
            "line 17: link 'default': bandwidth: '10 Gbits': 'Gbits' is not a unit of a bandwidth; did",
        ),
        ("a - laptop", "a - lapptop", "line 18: link 'a - lapptop': there is no node 'lapptop'"),
        ("300 Mbit", "0", "line 20: link 'a - laptop': bandwidth: must be more than zero"),
        (
            "300 Mbit",
            "300 Mbit\n    loaded_latency: 9 ms",
            "line 18: link 'a - laptop': loaded_bandwidth is missing; loaded_latency and loaded_bandwidth go together",
        ),
    ],
)
def test_mistakes_are_told_with_their_line(right, wrong, message):
    assert right in LONG and read(LONG).nodes
    with pytest.raises(FieldError) as error:
        read(LONG.replace(right, wrong, 1))
    assert str(error.value).startswith(message)


@given(st.data())
def test_round_trip(homes, data):
    fleet = data.draw(homes.fleets())
    described = fleet_to_data(fleet)
    assert fleet_from_data(described) == fleet
    assert fleet_from_data(json.loads(json.dumps(described))) == fleet


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["1 GiB", "a - b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "engine", "nodes", "links", "default", "devices", "flops", "memory", "a", "b"])
            | st.integers(0, 3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(VALUES)
def test_nonsense_never_gets_a_traceback(value):
    try:
        fleet_from_data(value)
    except FieldError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("name", "nodes"), [("pair", 2), ("trio", 3), ("home", 4), ("household", 5)])
def test_shipped_fleets(name, nodes):
    fleet = read(shipped(f"fleets/{name}.yaml"))
    assert (fleet.name, len(fleet.nodes)) == (name, nodes)
    assert fleet.node(fleet.engine).checkpoint, "requests arrive where the model's file is"
    assert any(not node.checkpoint for node in fleet.nodes) == (nodes > 2)


def test_the_documentation_shows_fleets_that_read():
    blocks = (DOCS / "fleet-file.md").read_text("utf-8").split("```yaml\n")[1:]
    fleets = [block.split("```")[0] for block in blocks]
    assert len(fleets) >= 2 and all(read(text).nodes for text in fleets)
