"""Plans with groups on real workers: the text of one node, the bytes and sums of the formulas, hybrids, cancelling."""

import asyncio
import time
from collections import Counter

import pytest

from potluck.planner.agreement import agreements
from potluck.planner.sums import stage_traffic, sums_per_step
from potluck.planner.transfers import link_bytes

EIGHT = {"num_attention_heads": 8, "num_key_value_heads": 8}
PROMPTS = [[(7 * place + 13 * number) % 60 + 4 for place in range(9 + 11 * number)] for number in range(8)]


def lead(algorithm, split="[5, 2, 1]", wire="auto"):
    """The first node has both ends, three nodes the layers."""
    asked = f"all_reduce: {{algorithm: {algorithm}, wire: {wire}}}"
    layers = f"{{parts: layers 0-4, nodes: [n0, n1, n2], split: {split}, {asked}}}"
    return ["{node: n0, parts: embedding}", layers, "{node: n0, parts: head}"]


def together(algorithm, nodes="[n3, n1]", split="[1, 3]"):
    """Everything is split."""
    asked = f"all_reduce: {{algorithm: {algorithm}}}"
    return [f"{{parts: [embedding, layers 0-4, head], nodes: {nodes}, split: {split}, {asked}}}"]


# Single nodes, groups, a ring that comes round to nodes with other shares, streamed members, a head of another group.
HYBRID = [
    "{node: n0, parts: [embedding, layer 0]}",
    "{parts: layer 1, nodes: [n1, n2, n3], split: [2, 1, 1], all_reduce: {algorithm: ring}}",
    "{node: n4, parts: layer 2}",
    "{parts: layers 3-4, nodes: [n2, n0], split: [1, 3], residency: streamed, window: 1}",
    "{node: n1, parts: layer 5}",
    "{parts: [layer 6, head], nodes: [n3, n4, n1], split: [1, 1, 2], all_reduce: {algorithm: direct}}",
]
# Groups of nodes of their own: several steps are in flight, each group has another.
PIPED = [
    "{parts: [embedding, layers 0-2], nodes: [n0, n1], split: [1, 1]}",
    "{parts: [layers 3-6, head], nodes: [n2, n3], split: [3, 1], all_reduce: {algorithm: star}}",
]


def counts(rig):
    """Payload bytes on every link, and sums by node, so far."""
    statuses = rig.callers.statuses(rig.plan.nodes)
    links = Counter({(status.node, link.node): link.payload_bytes for status in statuses for link in status.links})
    return links, Counter({status.node: status.sums for status in statuses})


def expected(rig, files):
    """The same by the formulas, of the steps that were packed; gathers count as sums."""
    stages, steps, agreed = rig.plan.routes[0].stages, rig.scheduler.steps, agreements(rig.plan, rig.fleet(5))
    links, sums = Counter(), Counter()
    for step in steps:
        links.update(link_bytes(rig.plan.routes[0], step, files.spec.hidden * 4))
        for number, stage in enumerate(stages):
            if stage.is_group:
                links.update(stage_traffic(stage, step, files.spec, agreed[number]))
                formed = sums_per_step(stage) * (step.rows > 0) + (stage.has_head and len(step.sampled_rows()) > 0)
                sums.update(dict.fromkeys(stage.nodes, formed))
        # What the step before drew, from the lead.
        lead, *others = stages[0].nodes
        links.update(dict.fromkeys([(lead, other) for other in others], 8 * len(step.open_runs)))
    return links, sums


def check_counts(rig, files, before):
    """Links and sums have counted what they should since then. Members count a sum when the lead has it already."""
    links, sums = expected(rig, files)
    deadline = time.monotonic() + 5.0
    while (now := counts(rig))[1] - before[1] != +sums and time.monotonic() < deadline:
        time.sleep(0.05)
    assert now[1] - before[1] == +sums
    assert now[0] - before[0] == +links


def check(rig, tools, files, oracle, prompts=PROMPTS, tokens=12):
    """The texts are the oracle's, alone and together; links and sums have counted what they should."""
    before = counts(rig)
    texts = tools.texts(rig.engine, [tools.ask(prompt, tokens) for prompt in prompts])
    texts += tools.texts(rig.engine, [tools.ask(prompts[0], tokens)])
    for prompt, text in zip([*prompts, prompts[0]], texts, strict=True):
        assert len(text) == tokens and oracle.agrees(prompt, text)
    check_counts(rig, files, before)


@pytest.mark.parametrize("algorithm", ["star", "direct", "ring", "auto"])
@pytest.mark.parametrize("stages", [lead, together])
def test_text_bytes_and_sums(rig, tools, oracles, tiny_model, algorithm, stages):
    path = tiny_model("llama2", 5, **EIGHT)
    files = tools.files_of(path)
    rig.engine = rig.serve(files, rig.plan_from_text(files, stages(algorithm)))
    check(rig, tools, files, oracles.tiny(path))


@pytest.mark.parametrize(
    "stages",
    [
        lead("direct", "[1, 1, 5]"),
        pytest.param(together("ring", "[n0, n1, n2, n3]", "[1, 1, 1, 5]"), marks=pytest.mark.exhaustive),
        together("star", "[n4, n1, n2, n3]", "[1, 1, 1, 5]"),
    ],
)
@pytest.mark.parametrize("family", ["gemma3", "qwen2"])
def test_more_members_than_kv_heads(rig, tools, oracles, tiny_model, family, stages):
    path = tiny_model(family, 5)
    files = tools.files_of(path)
    rig.engine = rig.serve(files, rig.plan_from_text(files, stages))
    check(rig, tools, files, oracles.tiny(path), PROMPTS[:3], 8)


@pytest.mark.parametrize("stages", [HYBRID, PIPED])
def test_hybrids(rig, tools, oracles, tiny_model, stages):
    path = tiny_model("llama2", 7, **EIGHT)
    files = tools.files_of(path)
    rig.engine = rig.serve(files, rig.plan_from_text(files, stages))
    check(rig, tools, files, oracles.tiny(path), tokens=20)


@pytest.mark.parametrize("wire", ["bfloat16", "int8", "int8-feedback"])
def test_bytes_of_other_wires(rig, tools, tiny_model, wire):
    path = tiny_model("llama2", 5, **EIGHT)
    files = tools.files_of(path)
    rig.engine = rig.serve(files, rig.plan_from_text(files, lead("direct", wire=wire)))
    before = counts(rig)
    (first,) = tools.texts(rig.engine, [tools.ask(PROMPTS[2], 8)])
    check_counts(rig, files, before)
    assert tools.texts(rig.engine, [tools.ask(PROMPTS[2], 8)]) == [first], "every run adds up the same"


ENDING_IN_A_GROUP = [*HYBRID[:3], "{parts: [layers 3-6, head], nodes: [n1, n4], split: [1, 1]}"]


@pytest.mark.parametrize("stages", [lead("ring"), ENDING_IN_A_GROUP])
def test_requests_that_leave_do_not_disturb_those_that_stay(rig, tools, oracles, tiny_model, stages):
    layers = 5 if len(stages) == 3 else 7
    path = tiny_model("llama2", layers, **EIGHT)
    files, oracle = tools.files_of(path), oracles.tiny(path)
    engine = rig.serve(files, rig.plan_from_text(files, stages))

    async def read(stream, most):
        drawn = []
        async for one in stream:
            drawn.append(one.token)
            if len(drawn) == most:
                stream.cancel()
                break
        return drawn

    async def all_of_them():
        streams = [engine.submit([tools.ask(prompt, 40)])[0] for prompt in PROMPTS]
        lengths = [3 + number if number % 2 else 40 for number in range(len(streams))]
        return await asyncio.gather(*map(read, streams, lengths))

    texts = asyncio.run(asyncio.wait_for(all_of_them(), 60))
    assert [len(text) for text in texts] == [40, 4, 40, 6, 40, 8, 40, 10]
    assert all(oracle.agrees(prompt, text) for prompt, text in zip(PROMPTS, texts, strict=True))
    (again,) = tools.texts(engine, [tools.ask(PROMPTS[1], 20)])
    assert oracle.agrees(PROMPTS[1], again)
