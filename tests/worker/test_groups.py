"""A model split over the members of a group reads as one node does, however uneven the shares."""

import time

import pytest
import torch

from potluck.proto.shaper import Shape
from potluck.worker.cut import Cut

PROMPT = [5, 17, 300, 42, 42, 7, 99, 250, 3, 11, 120, 64, 301, 8, 77, 205, 31, 2, 90, 45, 260, 13]
EIGHT = {"num_attention_heads": 8, "num_key_value_heads": 8}
GROUPED = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 16}

# family, config, proportions, ends, algorithm, chunk: every value of each meets several of the others. Gemma's one KV
# head is in all members, two of them share one of Qwen's two.
CASES = [
    ("llama2", EIGHT, (5, 2, 1), "lead", "direct", 512),
    ("llama2", EIGHT, (1, 1, 1, 5), "split", "ring", 7),
    ("llama3", GROUPED, (5, 2, 1), "split", "star", 1),
    ("llama3", GROUPED, (1, 1), "lead", "ring", 5),
    ("linear", EIGHT, (1, 1, 1, 5), "lead", "star", 512),
    ("yarn", GROUPED, (3, 1), "split", "direct", 7),
    ("mistral", GROUPED, (1, 1, 1, 5), "split", "direct", 512),
    ("mistral", EIGHT, (1, 7), "lead", "star", 5),
    ("qwen2", GROUPED, (5, 2, 1), "lead", "ring", 1),
    ("qwen2", {}, (1, 1, 1), "split", "direct", 512),
    ("qwen3", GROUPED, (1, 1, 1, 5), "lead", "direct", 7),
    ("qwen3", {}, (2, 1, 1), "split", "ring", 512),
    ("gemma3", {}, (1, 1), "lead", "direct", 512),
    ("gemma3", {}, (2, 1, 1), "split", "star", 7),
    ("gemma3", {}, (1, 1, 1, 1), "split", "ring", 1),
]


@pytest.fixture
def grouped(in_group, in_process, tiny_model):
    """grouped(path, cuts, **kwargs) -> GroupPipeline in float32; closed at the end."""
    made = []

    def make(path, cuts, dtype=torch.float32, **kwargs):
        changes = kwargs.pop("changes", {})
        config = in_group.config_of(dtype, torch.device("cpu"), **changes)
        made.append(in_group.GroupPipeline(path, cuts, config=config, source=in_process.in_memory, **kwargs))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.close()


@pytest.mark.parametrize(("family", "config", "parts", "ends", "algorithm", "chunk"), CASES)
def test_logits_and_greedy_text_equal_transformers(
    grouped, in_group, in_process, tiny_model, tiny_oracle, family, config, parts, ends, algorithm, chunk
):
    path, oracle = tiny_model(family, 3, **config), tiny_oracle(family, 3, **config)
    spec = in_process.read_spec(path)
    pipeline = grouped(path, in_group.cuts_of(spec, parts), ends=ends, algorithm=algorithm)
    wanted = oracle.logprobs(PROMPT)
    for row, score in enumerate(pipeline.scores(PROMPT, [chunk] * 30, spec.vocab)):
        found = torch.empty(spec.vocab)
        for token, logprob in score.top:
            found[token] = logprob
        torch.testing.assert_close(found, wanted[row], atol=2e-3, rtol=1e-3)
    prompts = [PROMPT[i:] + PROMPT[: 3 * i] for i in range(8)]
    texts = pipeline.generate([in_process.Request(prompt) for prompt in prompts], 12, chunk)
    assert all(oracle.agrees(prompt, tokens) for prompt, tokens in zip(prompts, texts, strict=True))
    [alone] = pipeline.generate([in_process.Request(PROMPT)], 12, chunk)
    assert oracle.agrees(PROMPT, alone)


def test_heads_of_several_kv_heads_in_parts(grouped, in_group, in_process, tiny_model, tiny_oracle):
    """A member has half of one KV head's query heads and half of the next one's."""
    path = tiny_model("llama3", 3, **GROUPED)
    spec = in_process.read_spec(path)
    bounds = [(0, 3), (3, 7), (7, 16)]
    rest = in_group.cuts_of(spec, (1, 1, 1))
    cuts = [Cut(heads, cut.columns, cut.vocabulary) for heads, cut in zip(bounds, rest, strict=True)]
    [tokens] = grouped(path, cuts).generate([in_process.Request(PROMPT)], 12)
    assert tiny_oracle("llama3", 3, **GROUPED).agrees(PROMPT, tokens)


@pytest.mark.parametrize("ends", ["lead", "split"])
@pytest.mark.parametrize("algorithm", ["direct", "star", "ring"])
def test_two_sums_per_layer_and_their_bytes(grouped, in_group, in_process, tiny_model, ends, algorithm):
    """As many as the formula says, and one more for the embedding and a gather of logits where they are split."""
    path = tiny_model("llama2", 3, **EIGHT)
    spec = in_process.read_spec(path)
    cuts = in_group.cuts_of(spec, (5, 2, 1))
    pipeline = grouped(path, cuts, ends=ends, algorithm=algorithm)
    pipeline.generate([in_process.Request(PROMPT)], 1)
    split, size = ends == "split", 4 * len(PROMPT) * spec.hidden
    sums = 2 * 3 + split
    assert [totals.sums for totals in pipeline.totals] == [sums + split] * 3
    sent = [sum(link.counts.payload_bytes for link in links.values()) for links in pipeline.links]
    logits = [0, *(4 * (end - first) * split for first, end in (cut.vocabulary for cut in cuts[1:]))]
    each = {"direct": [2 * size] * 3, "star": [2 * size, size, size], "ring": [4 * size / 3] * 3}[algorithm]
    assert sent == pytest.approx([sums * one + extra for one, extra in zip(each, logits, strict=True)], rel=2e-3)


@pytest.mark.parametrize(
    ("algorithm", "members", "hops"), [("star", 2, 4), ("direct", 2, 2), ("ring", 2, 4), ("star", 3, 4), ("ring", 3, 8)]
)
def test_latency_of_links_counts_as_often_as_the_formula_says(
    grouped, in_group, in_process, tiny_model, algorithm, members, hops
):
    """The slope of a token's time over the links' one-way delay: 4 x layers for a star, 2 x layers for direct exchange,
    4 x (N - 1) x layers for a ring. Of several tokens the fastest, so that a busy machine does not count."""
    path, layers, times = tiny_model("llama2", 2, **EIGHT), 2, []
    spec = in_process.read_spec(path)
    for delay in (0.010, 0.030):
        pipeline = grouped(path, in_group.cuts_of(spec, (1,) * members), algorithm=algorithm, shape=Shape(delay))
        requests = [in_process.Request(PROMPT)]
        pipeline.generate(requests, 1)
        times.append(min(_step_seconds(pipeline, in_process) for _ in range(3)))
    assert (times[1] - times[0]) / 0.020 == pytest.approx(hops * layers, rel=0.15)


def _step_seconds(pipeline, in_process):
    """Seconds of the one step that a prompt of one token takes, beside the step that forgets it."""
    begun = time.perf_counter()
    pipeline.generate([in_process.Request([5])], 1)
    return time.perf_counter() - begun


@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_pieces_that_travel_while_the_next_is_computed_change_nothing(grouped, in_group, in_process, tiny_model, wire):
    path = tiny_model("llama2", 3, **EIGHT)
    spec = in_process.read_spec(path)
    prompt, sent, texts = PROMPT * 8, [], []
    for pieces in (1, 3):
        pipeline = grouped(path, in_group.cuts_of(spec, (5, 2, 1)), wire=wire, pieces=pieces)
        texts.append([score.logprob for score in pipeline.scores(prompt, [512], 1)])
        counts = [link.counts for link in pipeline.links[0].values()]
        sent.append((sum(count.frames for count in counts), sum(count.payload_bytes for count in counts)))
    assert texts[0] == texts[1]
    assert sent[1] == (3 * sent[0][0], sent[0][1])


def test_members_hold_no_more_kv_than_their_heads(grouped, in_group, in_process, tiny_model):
    path = tiny_model("llama2", 3, **EIGHT)
    spec = in_process.read_spec(path)
    pipeline = grouped(path, in_group.cuts_of(spec, (5, 2, 1)))
    whole = 3 * 128 * 4 * spec.kv_width() * 4
    assert [shard.memory.kv for shard in pipeline.shards] == [whole * part // 8 for part in (5, 2, 1)]
