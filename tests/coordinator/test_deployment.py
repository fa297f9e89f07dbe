"""A tiny model served by real worker processes: same text, shared prompts, freed KV, counts."""

import asyncio
import random

import pytest

from potluck.coordinator.generation import GenerationError


@pytest.fixture(scope="module")
def served(home, tiny_model, tmp_path_factory):
    """Three nodes, two rounds; the last node has to fetch its weights."""
    made = home.Home(tiny_model("llama3", 7), tmp_path_factory.mktemp("home"), rounds=2, fetching=("n2",))
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def oracle(served, home_oracle):
    return home_oracle(served.folder)


def prompts(count, seed=0):
    source = random.Random(seed)
    return [[source.randrange(3, 300) for _ in range(source.randrange(1, 60))] for _ in range(count)]


async def test_16_requests_at_once_get_the_text_they_get_alone(served, home, oracle):
    asked = [home.ask(prompt, 24) for prompt in prompts(16)]
    together = await served.texts(*asked)
    for one, text in zip(asked, together, strict=True):
        assert len(text) == 24
        assert oracle.agrees(list(one.prompt), text)
    alone = [(await served.texts(one))[0] for one in asked[:2]]
    assert alone == together[:2]
    assert len({stage.node for stage in served.deployment.plan.routes[0].stages}) == 3
    assert len(served.deployment.plan.routes[0].stages) >= 6
    assert any(entry[:3] == ("loading", "n2", "fetching") for entry in served.diary.entries)


async def test_a_prompt_longer_than_a_step(served, home, oracle):
    (prompt,) = [[number % 290 + 3 for number in range(300)]]
    (text,) = await served.texts(home.ask(prompt, 8))
    assert oracle.agrees(prompt, text)


async def test_choices_that_share_a_prompt(served, home, oracle):
    (prompt,) = [[number % 100 + 3 for number in range(50)]]
    streams = served.engine.submit([home.ask(prompt, 12, stream=number) for number in range(5)])
    texts = [[drawn.token async for drawn in stream] for stream in streams]
    assert oracle.agrees(prompt, texts[0])
    assert texts == texts[:1] * 5
    hot = [home.ask(prompt, 12, stream=number, temperature=1.5, seed=9) for number in range(3)]
    streams = served.engine.submit(hot)
    texts = [[drawn.token async for drawn in stream] for stream in streams]
    assert len({tuple(text) for text in texts}) == 3
    assert await served.texts(*hot) == texts


async def test_prompt_scores_across_chunks(served, home, oracle):
    (prompt,) = [[number * 7 % 290 + 3 for number in range(150)]]
    (answer,) = await served.answers(home.ask(prompt, 0, score=True, logprobs=0))
    assert [drawn.token for drawn in answer] == [None]
    assert answer[-1].finish == "length"
    expected = oracle.logprobs(prompt)[range(149), prompt[1:]].tolist()
    assert [score.logprob for score in answer[0].prompt] == pytest.approx(expected, abs=1e-3)


async def test_a_cancelled_request_frees_its_kv(served, home):
    streams = served.engine.submit([home.ask([5, 6, 7] * 30, 400, stream=number) for number in range(4)])
    iterator = aiter(streams[0])
    await anext(iterator)
    assert served.engine.status().kv_used > 0
    for stream in streams:
        stream.cancel()
    await home.eventually(lambda: served.engine.status().kv_used == 0.0, 1.0)
    async for drawn in iterator:  # what had arrived; then it ends
        assert drawn.finish is None
    assert not served.engine.busy


async def test_refusals(served, home):
    with pytest.raises(GenerationError, match="the context is 512") as refused:
        served.engine.submit([home.ask([1] * 500, 13)])
    assert refused.value.status == 400


async def test_counts_and_times(served, home):
    before = served.engine.link_counts()
    await served.texts(*(home.ask(prompt, 40) for prompt in prompts(3, seed=1)))
    await home.eventually(lambda: served.engine.link_counts() != before)
    await asyncio.sleep(0.6)
    status = served.engine.status()
    assert status.ready
    assert {node.node for node in status.nodes} == {"n0", "n1", "n2"}
    assert all(node.alive and 0.0 <= node.compute <= 1.0 and 0.0 <= node.wait <= 1.0 for node in status.nodes)
    pairs = set(served.engine.link_counts())
    assert {("n0", "n1"), ("n1", "n2"), ("n2", "n0"), ("n0 (engine)", "n0")} <= pairs
    page = served.metrics.render().decode()
    assert 'potluck_sequences_total{outcome="ok"}' in page
    assert 'potluck_stage_seconds_total{kind="compute",node="n1",stage="1"}' in page
    assert 'potluck_link_payload_bytes{source="n0",target="n1"}' in page
