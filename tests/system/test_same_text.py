"""Placement never changes the text: real workers, every way of splitting, against transformers in float32."""

from pathlib import Path

import pytest

from potluck.models.tokenizer import load_tokenizer

FAMILIES = ["llama2", "llama3", "linear", "yarn", "mistral", "qwen2", "qwen3", "gemma3"]
# Every pair of nodes and rounds (one node has no rounds), of nodes and where the head is, of rounds and that.
PAIRWISE = [
    (1, 1, "last"),
    (2, 1, "home"),
    (2, 2, "last"),
    (2, 3, "home"),
    (3, 1, "last"),
    (3, 2, "home"),
    (3, 3, "last"),
    (5, 1, "home"),
    (5, 2, "last"),
    (5, 3, "home"),
]
MATRIX = [(nodes, rounds, head) for nodes in (1, 2, 3, 5) for rounds in (1, 2, 3) for head in ("home", "last")]
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


def check_alone_and_together(case, together=64, alone=64):
    """`alone` tokens of the first prompt alone, then `together` tokens of all prompts at once."""
    tools, engine, oracle, prompts = case
    (text,) = tools.texts(engine, [tools.ask(prompts[0], alone)])
    assert len(text) == alone
    assert oracle.agrees(prompts[0], text)
    texts = tools.texts(engine, [tools.ask(prompt, together) for prompt in prompts])
    for prompt, text in zip(prompts, texts, strict=True):
        assert len(text) == together
        assert oracle.agrees(prompt, text)


@pytest.mark.parametrize(("nodes", "rounds", "head"), PAIRWISE)
def test_smollm2(rig, tools, real, nodes, rounds, head):
    files, oracle = real("smollm2")
    engine = rig.serve(files, rig.plan_for(files, nodes, rounds, head=head))
    # Long once: what a placement gets wrong is wrong from the first tokens, and two more blocks of KV, on.
    together, alone = (64, 64) if (nodes, rounds) == (3, 3) else (8, 24)
    check_alone_and_together((tools, engine, oracle, prompts_of(files, TEXTS)), together, alone)


def test_over_the_grpc_port_alone(rig, tools, oracles, tiny_model):
    path = tiny_model("qwen3", 5)
    files = tools.files_of(path)
    engine = rig.serve(files, rig.plan_for(files, 3, 2), wire="grpc")
    prompts = [list(range(4 + number, 40 + 20 * number)) for number in range(4)]
    check_alone_and_together((tools, engine, oracles.tiny(path), prompts))


def test_embedding_alone_and_uneven_layers_by_hand(rig, tools, oracles, tiny_model):
    path = tiny_model("qwen3", 5)
    files = tools.files_of(path)
    # The embedding is 1 part, a layer 2: layers 1, 3 and 1 on nodes out of order, the head on a fourth.
    engine = rig.serve(files, rig.plan_by_hand(files, [(3, 1), (1, 2), (4, 6), (1, 2), (2, 1)]))
    prompts = [list(range(4 + number, 40 + 20 * number)) for number in range(4)]
    check_alone_and_together((tools, engine, oracles.tiny(path), prompts))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
@pytest.mark.parametrize(("nodes", "rounds", "head"), MATRIX)
def test_whole_matrix(rig, tools, real, name, nodes, rounds, head):
    files, oracle = real(name)
    engine = rig.serve(files, rig.plan_for(files, nodes, rounds, head=head))
    check_alone_and_together((tools, engine, oracle, prompts_of(files, TEXTS)))


def test_gemma3(rig, tools, real):
    files, oracle = real("gemma3")
    engine = rig.serve(files, rig.plan_for(files, 5, 2, kv_tokens=2048))
    check_alone_and_together((tools, engine, oracle, prompts_of(files, TEXTS)), 12, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(rig, tools, oracles, tiny_model, family):
    path = tiny_model(family, 5)
    files = tools.files_of(path)
    engine = rig.serve(files, rig.plan_for(files, 3, 2))
    prompts = [[(7 * place + 13 * number) % 60 + 4 for place in range(9 + 11 * number)] for number in range(8)]
    check_alone_and_together((tools, engine, oracles.tiny(path), prompts))


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
    """Fed the oracle's own text, through the scores of a prompt."""
    files, oracle = real("smollm2")
    prompt = prompts_of(files, [" ".join(TEXTS)])[0]
    (drawn,) = tools.texts(rig.serve(files, rig.plan_for(files, 1)), [tools.ask(prompt, 64)])
    assert oracle.agrees(prompt, drawn)
    text = [*prompt, *drawn]
    engine = rig.serve(files, rig.plan_for(files, 3, 2, dtype="bfloat16"))
    sampling = tools.Sampling(temperature=0.0, logprobs=1, prompt_tokens=len(text))
    (answer,) = tools.answers(engine, [tools.Generation(tuple(text), sampling, 0, frozenset(), True)])
    scores = [score for item in answer for score in item.prompt]
    wanted, gaps = oracle.choices(text[:1], text[1:])
    wide = [place for place, gap in enumerate(gaps) if gap > 0.25]
    assert len(scores) == len(text) - 1
    assert len(wide) > len(text) // 2
    assert [scores[place].top[0][0] for place in wide] == [wanted[place] for place in wide]
