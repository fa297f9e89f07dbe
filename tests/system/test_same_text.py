"""Placement never changes the text: real workers, every way of splitting, against transformers in float32."""

from pathlib import Path

import pytest

from potluck.models.tokenizer import load_tokenizer

FAMILIES = ["llama2", "llama3", "linear", "yarn", "mistral", "qwen2", "qwen3", "gemma3"]
# Every pair of (nodes, rounds) values appears over the cases; the whole matrix is the exhaustive one.
PAIRWISE = [(1, 1), (2, 2), (3, 3), (5, 1), (5, 2), (3, 1)]
MATRIX = [(nodes, rounds) for nodes in (1, 2, 3, 5) for rounds in (1, 2, 3)]
TEXTS = [
    "Once upon a time, in a village by the sea,",
    "The capital of France is",
    "def fibonacci(n):",
    "To make bread you need",
    "The three laws of motion say that",
    "Dear Sir or Madam,",
    "In 1969, two men",
    "Q: What is the boiling point of water?\nA:",
]


def prompts_of(files, texts):
    tokenizer = load_tokenizer(Path(files.path))
    return [tokenizer.encode_prompt(text) for text in texts]


def check_alone_and_together(case, count):
    tools, engine, oracle, prompts = case
    alone = tools.texts(engine, [tools.ask(prompts[0], count)])[0]
    assert len(alone) == count
    assert oracle.agrees(prompts[0], alone)
    together = tools.texts(engine, [tools.ask(prompt, count // 2) for prompt in prompts])
    for prompt, text in zip(prompts, together, strict=True):
        assert oracle.agrees(prompt, text)


@pytest.mark.parametrize(("nodes", "rounds"), PAIRWISE)
def test_smollm2(rig, tools, real, nodes, rounds):
    files, oracle = real("smollm2")
    engine = rig.serve(files, rig.plan_for(files, nodes, rounds))
    check_alone_and_together((tools, engine, oracle, prompts_of(files, TEXTS)), 64)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
@pytest.mark.parametrize(("nodes", "rounds"), MATRIX)
def test_whole_matrix(rig, tools, real, name, nodes, rounds):
    files, oracle = real(name)
    engine = rig.serve(files, rig.plan_for(files, nodes, rounds))
    check_alone_and_together((tools, engine, oracle, prompts_of(files, TEXTS)), 64)


def test_gemma3(rig, tools, real):
    files, oracle = real("gemma3")
    engine = rig.serve(files, rig.plan_for(files, 5, 2, kv_tokens=2048))
    check_alone_and_together((tools, engine, oracle, prompts_of(files, TEXTS[:4])), 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(rig, tools, oracles, tiny_model, family):
    path = tiny_model(family, 5)
    files = tools.files_of(path)
    engine = rig.serve(files, rig.plan_for(files, 3, 2))
    prompts = [[(7 * place + 13 * number) % 60 + 4 for place in range(9 + 11 * number)] for number in range(8)]
    check_alone_and_together((tools, engine, oracles.tiny(path), prompts), 64)


def test_seeded_text_does_not_depend_on_plan_or_company(rig, tools, real):
    files, _ = real("smollm2")
    prompts = prompts_of(files, TEXTS[:4])
    seeded = tools.ask(prompts[0], 24, temperature=0.9, top_p=0.95, seed=7)
    alone = tools.texts(rig.serve(files, rig.plan_for(files, 1)), [seeded])[0]
    company = [tools.ask(prompt, 24, temperature=1.0, seed=3) for prompt in prompts[1:]]
    engine = rig.serve(files, rig.plan_for(files, 3, 2))
    assert tools.texts(engine, [*company, seeded])[-1] == alone
    assert tools.texts(engine, [seeded])[0] == alone


def test_bfloat16_picks_the_same_token_where_the_gap_is_wide(rig, tools, real):
    """Fed the oracle's tokens, through the scores of a prompt."""
    files, oracle = real("smollm2")
    tokenizer = load_tokenizer(Path(files.path))
    text = tokenizer.encode_prompt(" ".join(TEXTS))
    engine = rig.serve(files, rig.plan_for(files, 3, 2, dtype="bfloat16"))
    generation = tools.Generation(
        tuple(text), tools.Sampling(temperature=0.0, logprobs=1, prompt_tokens=len(text)), 0, frozenset(), True
    )
    (drawn,) = tools.answers(engine, [generation])
    scores = [score for item in drawn for score in item.prompt]
    assert len(scores) == len(text) - 1
    best = oracle.logprobs(text)[:-1].topk(2)
    for score, likeliest, values in zip(scores, best.indices[:, 0].tolist(), best.values.tolist(), strict=True):
        if values[0] - values[1] > 0.25:
            assert score.top[0][0] == likeliest
