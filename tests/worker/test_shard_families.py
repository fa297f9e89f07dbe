"""Every family against transformers, however its layers are placed and its tokens packed."""

import pytest
import torch

from potluck.models.roles import Role, TensorKey

PROMPT = [5, 17, 300, 42, 42, 7, 99, 250, 3, 11, 120, 64, 301, 8, 77, 205, 31, 2, 90, 45, 260, 13]

# family, layers, nodes, rounds, head alone, chunk, block size: every value of each meets several of the others.
CASES = [
    ("llama2", 4, 1, 1, False, 512, 4),
    ("llama2", 5, 3, 1, True, 7, 16),
    ("llama3", 5, 2, 2, False, 5, 3),
    ("llama3", 4, 1, 3, True, 1, 4),
    ("linear", 4, 2, 1, True, 512, 16),
    ("yarn", 5, 3, 1, False, 1, 3),
    ("mistral", 4, 2, 2, True, 7, 4),
    ("mistral", 5, 1, 1, False, 512, 3),
    ("qwen2", 5, 2, 2, True, 1, 16),
    ("qwen2", 4, 3, 1, False, 5, 4),
    ("qwen3", 5, 5, 1, True, 5, 4),
    ("qwen3", 4, 1, 2, False, 512, 3),
    ("gemma3", 5, 2, 2, False, 7, 4),
    ("gemma3", 4, 3, 1, True, 512, 16),
    ("gemma3", 5, 1, 1, True, 1, 3),
]


@pytest.mark.parametrize(("family", "layers", "nodes", "rounds", "head_alone", "chunk", "block"), CASES)
def test_logits_and_greedy_text_equal_transformers(
    in_process, tiny_model, tiny_oracle, family, layers, nodes, rounds, head_alone, chunk, block
):
    oracle = tiny_oracle(family, layers)
    placement = in_process.spread(layers, nodes, rounds, head_alone)
    pipeline = in_process.Pipeline(tiny_model(family, layers), placement, block_size=block)
    scores = pipeline.scores(PROMPT, [chunk] * 30, pipeline.spec.vocab)
    wanted = oracle.logprobs(PROMPT)
    assert len(scores) == len(PROMPT) - 1
    for row, score in enumerate(scores):
        found = torch.empty(pipeline.spec.vocab)
        for token, logprob in score.top:
            found[token] = logprob
        torch.testing.assert_close(found, wanted[row], atol=2e-3, rtol=1e-3)
        assert score.logprob == pytest.approx(float(wanted[row, PROMPT[row + 1]]), abs=2e-3)
    [tokens] = pipeline.generate([in_process.Request(PROMPT)], 32, chunk)
    assert oracle.agrees(PROMPT, tokens)


@pytest.mark.parametrize("family", ["llama3", "mistral", "gemma3"])
@pytest.mark.parametrize("chunk", [1, 6, 512])
def test_eight_requests_together_read_as_alone(in_process, tiny_model, tiny_oracle, family, chunk):
    oracle = tiny_oracle(family)
    pipeline = in_process.Pipeline(tiny_model(family), in_process.spread(4, 2, 2))
    # Lengths that differ widely, so that decode rows fall into several groups.
    prompts = [PROMPT[i:] + PROMPT[: 3 * i] if i < 7 else PROMPT * 4 for i in range(8)]
    texts = pipeline.generate([in_process.Request(prompt) for prompt in prompts], 24, chunk)
    for prompt, tokens in zip(prompts, texts, strict=True):
        assert oracle.agrees(prompt, tokens)
    assert len(pipeline.shards[0]._steps.tables) == 0


def test_one_changed_layer_changes_the_text(in_process, tiny_model):
    def change(key, tensor):
        return -tensor if key == TensorKey(Role.FFN_NORM, 3) else tensor

    folder, request = tiny_model("llama3"), in_process.Request(PROMPT)
    before = in_process.Pipeline(folder, in_process.spread(4, 2)).generate([request], 16)
    changed = in_process.Pipeline(folder, in_process.spread(4, 2), change=change)
    assert changed.generate([in_process.Request(PROMPT)], 16) != before


@torch.inference_mode()
def test_what_an_earlier_sequence_left_in_a_block_harms_nobody(in_process, tiny_model, tiny_oracle):
    oracle = tiny_oracle("llama3")
    pipeline = in_process.Pipeline(tiny_model("llama3"), tokens=64)
    for layer in pipeline.shards[0]._layers.resident.values():
        layer._pool_NS2KE.fill_(float("nan"))
    requests = [in_process.Request(PROMPT[:9]), in_process.Request(PROMPT[:14])]
    for request, tokens in zip(requests, pipeline.generate(requests, 8), strict=True):
        assert oracle.agrees(request.prompt, tokens)
