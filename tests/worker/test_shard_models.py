"""The two real models against transformers: float32 text, bfloat16 choices, log-probabilities."""

import math
from dataclasses import replace

import pytest
import torch

from potluck.models.open import read_spec
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


def prompts(path):
    tokenizer = load_tokenizer(path)
    return [tokenizer.encode_prompt(text) for text in TEXTS]


def test_smollm2_writes_what_transformers_writes(in_process, smollm2_path, smollm2_oracle):
    [prompt, *_] = prompts(smollm2_path)
    pipeline = in_process.Pipeline(smollm2_path, in_process.spread(30, 3, 2, head_alone=True), tokens=256)
    [tokens] = pipeline.generate([in_process.Request(prompt)], 64)
    assert smollm2_oracle.agrees(tokens, *smollm2_oracle.greedy(prompt, 64))


def test_smollm2_eight_requests_together(in_process, smollm2_path, smollm2_oracle):
    pipeline = in_process.Pipeline(smollm2_path, in_process.spread(30, 1), tokens=512)
    requests = [in_process.Request(prompt) for prompt in prompts(smollm2_path)]
    texts = pipeline.generate(requests, 24, chunk=5)
    for request, tokens in zip(requests, texts, strict=True):
        assert smollm2_oracle.agrees(tokens, *smollm2_oracle.greedy(request.prompt, 24))


def test_gemma3_writes_what_transformers_writes(in_process, gemma3_path, gemma3_oracle):
    prompt = prompts(gemma3_path)[1]
    pipeline = in_process.Pipeline(gemma3_path, in_process.spread(len(read_spec(gemma3_path).layers), 2), tokens=256)
    [tokens] = pipeline.generate([in_process.Request(prompt)], 32)
    assert gemma3_oracle.agrees(tokens, *gemma3_oracle.greedy(prompt, 32))


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_bfloat16_agrees_where_the_gap_is_wide(in_process, request, model):
    """Fed the oracle's tokens one by one, it picks the same next token wherever the gap exceeds 0.25 nats."""
    path = request.getfixturevalue(f"{model}_path")
    oracle = request.getfixturevalue(f"{model}_oracle")
    prompt = prompts(path)[1]
    wanted, gaps = oracle.greedy(prompt, 32)
    pipeline = in_process.Pipeline(path, dtype=torch.bfloat16, tokens=256)
    blocks = pipeline.blocks_for(len(prompt) + 32)
    run = Run(0, 0, prompt, blocks, Outputs.LAST, in_process.GREEDY)
    wide = 0
    for position, (token, gap) in enumerate(zip(wanted, gaps, strict=True), len(prompt)):
        drawn = pipeline.step([run])[0].token
        assert drawn == token or gap <= 0.25
        wide += gap > 0.25
        run = replace(run, position=position, tokens=[token], blocks=[], sampling=None)
    assert wide > 16


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 5e-3)])
def test_smollm2_perplexity(in_process, smollm2_path, smollm2_oracle, dtype, tolerance):
    tokens = [token for prompt in prompts(smollm2_path) for token in prompt]
    wanted = smollm2_oracle.logprobs(tokens)
    expected = sum(float(wanted[i, token]) for i, token in enumerate(tokens[1:]))
    pipeline = in_process.Pipeline(smollm2_path, dtype=dtype, tokens=256)
    found = sum(score.logprob for score in pipeline.scores(tokens, [48] * 9, 0))
    assert math.exp((expected - found) / (len(tokens) - 1)) == pytest.approx(1.0, abs=tolerance)
