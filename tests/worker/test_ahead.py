"""Steps sent before the tokens they feed were drawn: the stage fills these in, and draws what it would have drawn."""

from dataclasses import replace

import pytest
import torch
from msgspec import structs

from potluck.proto.step import DRAWN, Sampling
from potluck.worker.shard import StepError

PROMPTS = [[5, 17, 300, 42, 42, 7, 99], [250, 3], [11, 120, 64, 301, 8, 77, 205, 31, 2]]
DRAWS = [
    Sampling(temperature=0.0),
    Sampling(temperature=0.9, seed=5, top_p=0.9, prompt_tokens=2),
    Sampling(temperature=0.7, seed=2, repetition_penalty=1.3, frequency_penalty=0.4, prompt_tokens=9),
]


def ahead(pipeline):
    """The pipeline whose steps feed what the step before drew."""

    class Ahead(pipeline):
        def _run(self, sequence, request, chunk):
            run = super()._run(sequence, request, chunk)
            return structs.replace(run, tokens=[DRAWN]) if request.tokens else run

    return Ahead


def drawn(in_process, pipeline):
    try:
        return pipeline.generate([in_process.Request(*one) for one in zip(PROMPTS, DRAWS, strict=True)], 12)
    finally:
        if hasattr(pipeline, "close"):
            pipeline.close()


def test_one_node_draws_the_same(in_process, tiny_model):
    path = tiny_model("qwen2", 3)
    wanted, found = (drawn(in_process, made(path)) for made in (in_process.Pipeline, ahead(in_process.Pipeline)))
    assert found == wanted


@pytest.mark.parametrize("algorithm", ["star", "direct"])
def test_the_members_of_a_group_hear_from_the_lead(in_process, in_group, tiny_model, algorithm):
    path = tiny_model("llama2", 3, num_attention_heads=8, num_key_value_heads=8)
    cuts = in_group.cuts_of(in_process.read_spec(path), (5, 2, 1))
    config = in_group.config_of(torch.float32, torch.device("cpu"))
    rest = {"ends": "split", "config": config, "algorithm": algorithm, "source": in_process.in_memory}
    wanted, found = (
        drawn(in_process, made(path, cuts, **rest)) for made in (in_group.GroupPipeline, ahead(in_group.GroupPipeline))
    )
    assert found == wanted == drawn(in_process, in_process.Pipeline(path))


@pytest.mark.parametrize("tokens", [[DRAWN, 5], [5, DRAWN]])
def test_only_a_lone_token_may_be_open(in_process, tiny_model, tokens):
    pipeline = in_process.Pipeline(tiny_model("llama2", 2))
    run = pipeline._run(0, in_process.Request([1, 2]), 9)
    with pytest.raises(StepError, match="token -1 of sequence 0 is not in the vocabulary"):
        pipeline.step([structs.replace(run, tokens=tokens)])


def test_stages_that_draw_nothing_cannot_fill_in(in_process, tiny_model):
    placement = replace(in_process.Placement((0, 1), (1,)))
    pipeline = ahead(in_process.Pipeline)(tiny_model("llama2", 2), placement)
    with pytest.raises(StepError, match="token -1 of sequence 0 is not in the vocabulary"):
        pipeline.generate([in_process.Request([1, 2])], 2)


def test_a_sequence_that_drew_nothing_gets_some_token(in_process, tiny_model):
    # The coordinator knows by then that it failed, and reads nothing of it.
    pipeline = in_process.Pipeline(tiny_model("llama2", 2))
    request = in_process.Request([1, 2], Sampling(temperature=0.0, banned=list(range(pipeline.spec.vocab))))
    assert pipeline.step([pipeline._run(0, request, 9)])[0].error
    request.tokens = [0]
    run = structs.replace(pipeline._run(0, request, 9), tokens=[DRAWN])
    assert pipeline.step([run])[0].error
