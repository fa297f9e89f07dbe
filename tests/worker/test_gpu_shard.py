"""Whole models with the GPU's operations: on the GPU if there is one, else on CPU tensors through the interpreter."""

import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels import packed

PROMPTS = [[5, 9, 17, 33, 2, 8, 101, 44, 7, 3, 60, 12], [40, 41, 7], [11, 250, 3, 90, 2, 64, 8]]
# Nats. Both compute in float32 and add in another order.
TOLERANCE = 2e-3
FAMILIES = {"llama3": {}, "qwen3": {}, "gemma3": {"num_key_value_heads": 2}}


@pytest.fixture(scope="module")
def compared(in_process):
    """compared(path, kept) -> for either set of operations: prompt scores in two chunks, and drawn tokens."""

    def run(path, kernels, kept=None, **options):
        pipeline = in_process.Pipeline(path, kept=kept, kernels=kernels, **options)
        scores = [score.logprob for score in pipeline.scores(PROMPTS[0], [5, 7], 0)]
        requests = [in_process.Request(list(prompt)) for prompt in PROMPTS]
        return torch.tensor(scores), pipeline.generate(requests, 4, chunk=7)

    def compare(path, kept=None, **options):
        return run(path, "cpu", kept, **options), run(path, "gpu", kept, **options)

    return compare


@pytest.mark.parametrize("family", FAMILIES)
def test_float32(tiny_model, compared, family):
    (wanted, tokens), (found, drawn) = compared(tiny_model(family, 2, **FAMILIES[family]))
    assert drawn == tokens
    assert (found - wanted).abs().max() < TOLERANCE
