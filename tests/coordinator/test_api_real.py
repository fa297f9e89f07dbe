"""The official client against tokens that a real model draws: everything a request can ask of them."""

from __future__ import annotations

import asyncio
import math

import httpx
import pytest
from openai import AsyncOpenAI

MODEL = "tests/tiny"
ASK = {"model": MODEL, "prompt": "The quick brown fox", "max_tokens": 12}


@pytest.fixture
async def server(api_serve, api_shard_engine):
    running = asyncio.create_task(api_shard_engine.run())
    async with api_serve(api_shard_engine) as serving:
        yield serving
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def text(server, **asked):
    answer = await server.openai.completions.create(**{**ASK, **asked})
    return answer.choices[0].text


async def until_free(server):
    async with asyncio.timeout(1):
        while server.engine.status().kv_used:
            await asyncio.sleep(0.01)


async def test_streamed_and_whole_answers_are_the_same(server):
    stream = await server.openai.completions.create(**ASK, temperature=0, stream=True)
    streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert streamed == await text(server, temperature=0)
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12, "seed": 3}
    whole = (await server.openai.chat.completions.create(**chat)).choices[0].message.content
    stream = await server.openai.chat.completions.create(**chat, stream=True)
    assert whole == "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert whole


async def test_a_seed_draws_the_same_again_and_every_choice_differently(server):
    first = await server.openai.completions.create(**ASK, seed=7, n=3)
    again = await server.openai.completions.create(**ASK, seed=7, n=3)
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert len(set(texts)) == 3
    assert texts[0] == await text(server, seed=7)
    assert texts[0] != await text(server, seed=8)
    assert await text(server) != await text(server)


async def test_a_bias_forces_and_forbids_a_token(server, api_tokenizer):
    (token,) = api_tokenizer.encode(" fox")
    assert await text(server, logit_bias={str(token): 100}, max_tokens=3) == " fox fox fox"
    greedy = await server.openai.completions.create(**ASK, temperature=0, logprobs=0)
    likeliest = greedy.choices[0].logprobs.tokens[0]
    (token,) = api_tokenizer.encode(likeliest)
    forbidden = await server.openai.completions.create(**ASK, temperature=0, logprobs=0, logit_bias={str(token): -100})
    assert forbidden.choices[0].logprobs.tokens[0] != likeliest


async def test_penalties_make_tokens_come_less_often(server):
    async def distinct(**asked):
        few = {str(token): 100 for token in range(1000, 1006)}
        asked = {**ASK, "temperature": 0, "logit_bias": few, "logprobs": 0, **asked}
        answer = await server.openai.completions.create(**asked)
        return len(set(answer.choices[0].logprobs.tokens))

    plain = await distinct()
    assert plain < await distinct(frequency_penalty=2)
    assert plain < await distinct(presence_penalty=2)
    assert plain < await distinct(extra_body={"repetition_penalty": 10})


async def test_an_end_token_ends_unless_ignored(server, api_tokenizer):
    end = min(api_tokenizer.end_ids)
    asked = {**ASK, "logit_bias": {str(end): 100}}
    ended = await server.openai.completions.create(**asked)
    assert (ended.choices[0].text, ended.choices[0].finish_reason) == ("", "stop")
    assert ended.usage.completion_tokens == 1
    ignored = await server.openai.completions.create(**asked, extra_body={"ignore_eos": True})
    assert (ignored.choices[0].finish_reason, ignored.usage.completion_tokens) == ("length", 12)


async def test_log_probabilities_are_of_a_distribution(server):
    answer = await server.openai.completions.create(**ASK, temperature=0, logprobs=5)
    scores = answer.choices[0].logprobs
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == 12
    for token, logprob, top in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True):
        assert 5 <= len(top) <= 6
        assert top[token] == pytest.approx(logprob) == pytest.approx(max(top.values()))
        assert sum(map(math.exp, top.values())) <= 1.0001


async def test_a_scored_prompt_agrees_with_its_own_drawing(server, api_tokenizer):
    drawn = (await server.openai.completions.create(**ASK, temperature=0, logprobs=0)).choices[0]
    whole = api_tokenizer.encode_prompt(ASK["prompt"]) + api_tokenizer.encode(drawn.text)
    asked = {"model": MODEL, "prompt": whole, "echo": True, "logprobs": 0, "max_tokens": 0}
    echoed = (await server.openai.completions.create(**asked)).choices[0]
    assert echoed.text == ASK["prompt"] + drawn.text
    if len(api_tokenizer.encode(drawn.text)) == 12:
        assert echoed.logprobs.token_logprobs[-12:] == pytest.approx(drawn.logprobs.token_logprobs, abs=1e-3)
    assert echoed.logprobs.token_logprobs[0] is None
    assert len(echoed.logprobs.token_logprobs) == len(whole)


async def test_a_stop_string_made_of_what_is_drawn(server):
    whole = await text(server, temperature=0)
    stop = whole[len(whole) // 2 :][:5]
    cut = await text(server, temperature=0, stop=stop)
    assert cut == whole[: whole.index(stop)]
    await until_free(server)


@pytest.mark.parametrize(
    "extremes",
    [
        {"temperature": 5e-324},
        {"temperature": 1e-300, "top_p": 5e-324},
        {"repetition_penalty": 5e-324},
        {"top_p": 1e-300, "min_p": 1.0, "top_k": 1 << 20},
        {"frequency_penalty": -2, "presence_penalty": -2, "repetition_penalty": 10},
    ],
    ids=str,
)
async def test_extreme_sampling_draws_and_harms_nobody(server, extremes):
    wanted = await text(server, seed=7)
    odd, even = await asyncio.gather(text(server, extra_body=extremes), text(server, seed=7))
    assert odd
    assert even == wanted == await text(server, seed=7)


async def test_64_streams_at_once_all_end_and_free_their_kv(server):
    async def one(client, number):
        answer = await client.post("/v1/completions", json={**ASK, "stream": True, "seed": number, "n": 1 + number % 2})
        return answer.text

    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        texts = await asyncio.gather(*(one(client, number) for number in range(64)))
    assert all(answer.endswith("data: [DONE]\n\n") and '"error"' not in answer for answer in texts)
    assert [answer.count('"finish_reason":"') for answer in texts] == [1, 2] * 32
    await until_free(server)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_kv(server, stream):
    leaving = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    asked = {**ASK, "max_tokens": 400, "n": 4, "stream": stream, "extra_body": {"ignore_eos": True}}
    request = asyncio.create_task(leaving.completions.create(**asked))
    async with asyncio.timeout(5):
        while not server.engine.status().kv_used:
            await asyncio.sleep(0.005)
    if stream:
        answer = await request
        await anext(aiter(answer))
        await answer.close()
    else:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await until_free(server)
    await leaving.close()
    assert await text(server)
