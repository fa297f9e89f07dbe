"""The two real models against transformers: float32 text, bfloat16 choices, log-probabilities."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from potluck.models.tokenizer import load_tokenizer
from potluck.proto.step import Outputs, Run

TEXTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):",
    "To make bread you need",
    "The three laws of motion say that",
    "Dear Sir or Madam,",
    "In 1969, two men",
    "Q: What is the boiling point of water?\nA:",
]
PROSE = """A potluck is a meal to which every guest brings a dish. Nobody has to cook for everybody, and nobody
needs a large kitchen; what one cannot bring another does. The host sets the table, counts who comes, and asks that
not all of them bring salad. Some guests carry heavy pots, some only a loaf of bread, and a few arrive late. When one of
them has to leave early, the others share what is left and the meal goes on. Children like such evenings most, because
there are five kinds of cake and nobody counts the slices. The recipe is older than any cookbook: bring what you have,
take what you need, and wash the dishes together before you go home."""


@pytest.fixture(scope="module")
def model(request, in_process):
    """model(name, dtype) -> (path, oracle, pipeline), each loaded once."""
    made = {}

    def make(name, dtype=torch.float32):
        path = request.getfixturevalue(f"{name}_path")
        if (name, dtype) not in made:
            # Two nodes, two rounds, the head on its own: 30 and 18 layers do not divide evenly.
            layers = 30 if name == "smollm2" else 18
            placement = in_process.spread(layers, 2 if dtype == torch.bfloat16 else 3, 2, head_alone=True)
            made[name, dtype] = in_process.Pipeline(path, placement, dtype, tokens=1024)
        return path, request.getfixturevalue(f"{name}_oracle"), made[name, dtype]

    return make


@cache
def tokenizer_of(path):
    return load_tokenizer(path)


def prompts(path):
    return [tokenizer_of(path).encode_prompt(text) for text in TEXTS]


@pytest.mark.parametrize(("name", "count"), [("smollm2", 64), ("gemma3", 32)])
def test_a_model_writes_what_transformers_writes(in_process, model, name, count):
    path, oracle, pipeline = model(name)
    prompt = prompts(path)[1]
    [tokens] = pipeline.generate([in_process.Request(prompt)], count)
    assert oracle.agrees(prompt, tokens)


def test_eight_requests_together(in_process, model):
    path, oracle, pipeline = model("smollm2")
    requests = [in_process.Request(prompt) for prompt in prompts(path)]
    for request, tokens in zip(requests, pipeline.generate(requests, 24, chunk=5), strict=True):
        assert oracle.agrees(request.prompt, tokens)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_bfloat16_agrees_where_the_gap_is_wide(in_process, model, name):
    """Fed the same tokens one by one, it picks the same next token wherever the gap exceeds 0.25 nats."""
    path, oracle, pipeline = model(name, torch.bfloat16)
    prompt, text = (tokenizer_of(path).encode_prompt(part) for part in (PROSE[:57], PROSE[57:250]))
    run = Run(0, 0, prompt, pipeline.blocks_for(len(prompt) + len(text)), Outputs.LAST, in_process.GREEDY)
    wide = 0
    for i, (wanted, gap) in enumerate(zip(*oracle.choices(prompt, text), strict=True)):
        drawn = pipeline.step([run])[0].token
        assert drawn == wanted or gap <= 0.25
        wide += gap > 0.25
        run = replace(run, position=len(prompt) + i, tokens=[text[i]], blocks=[], sampling=None)
    assert wide > 16
    pipeline.forget([0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 5e-3)])
def test_perplexity(model, dtype, tolerance):
    path, oracle, pipeline = model("smollm2", dtype)
    # Rounding in bfloat16 scatters a log-probability by some 0.04 nats: only a long text averages that out.
    text = PROSE + (Path(__file__).parents[2] / "LICENSE").read_text()[:3400]
    tokens = tokenizer_of(path).encode_prompt(text)
    assert 800 < len(tokens) < 1000
    expected = float(oracle.scores(tokens).double().sum())
    found = sum(score.logprob for score in pipeline.scores(tokens, [48] * 21, 0))
    assert math.exp((expected - found) / (len(tokens) - 1)) == pytest.approx(1.0, abs=tolerance)
