"""The official OpenAI client against a running server whose engine plays a script."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai import OpenAI

from potluck.coordinator.generation import Drawn, GenerationError

MODEL = "tests/tiny"
HI = [{"role": "user", "content": "Hi"}]


async def test_models_are_listed_and_found(api_serve, api_says):
    async with api_serve(api_says("x"), aliases=("tiny",)) as server:
        listed = await server.openai.models.list()
        assert [model.id for model in listed.data] == [MODEL, "tiny"]
        assert (await server.openai.models.retrieve(MODEL)).id == MODEL
        with pytest.raises(openai.NotFoundError, match="served: tests/tiny, tiny"):
            await server.openai.models.retrieve("other")


async def test_a_chat(api_serve, api_says):
    async with api_serve(api_says("Hello you."), aliases=("tiny",)) as server:
        answer = await server.openai.chat.completions.create(model="tiny", messages=HI)
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", "Hello you.")
        assert choice.finish_reason == "stop"
        assert answer.model == MODEL
        assert answer.usage.prompt_tokens == len(server.engine.asked[0].prompt)
        assert answer.usage.completion_tokens == 4
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4
        assert server.engine.asked[0].max_tokens == 512 - answer.usage.prompt_tokens


async def test_a_streamed_chat(api_serve, api_says):
    async with api_serve(api_says("Hello you 🙂.")) as server:
        stream = await server.openai.chat.completions.create(
            model=MODEL, messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello you 🙂."
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-2:] == [None, "stop"]
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == len(server.engine.script(None))
        assert len({chunk.id for chunk in chunks}) == 1


async def test_a_client_that_waits_in_a_thread(api_serve, api_says):
    async with api_serve(api_says("Hello you.")) as server:

        def ask():
            with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
                whole = client.completions.create(model=MODEL, prompt="Hi")
                parts = client.completions.create(model=MODEL, prompt="Hi", stream=True)
                return whole.choices[0].text, "".join(part.choices[0].text for part in parts)

        assert await asyncio.to_thread(ask) == ("Hello you.", "Hello you.")


@pytest.mark.parametrize("prompt", ["Hi", ["Hi", "Ho"], [7, 8, 9], [[7, 8], [9]]])
async def test_every_form_of_prompt_times_n(api_serve, api_says, prompt):
    async with api_serve(api_says("yes")) as server:
        answer = await server.openai.completions.create(model=MODEL, prompt=prompt, n=2, echo=True)
        count = 2 * (len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1)
        assert [choice.index for choice in answer.choices] == list(range(count))
        prompts = [one.prompt for one in server.engine.asked]
        assert prompts[0::2] == prompts[1::2]
        assert all(choice.text.endswith("yes") for choice in answer.choices)
        assert answer.usage.prompt_tokens == sum(map(len, prompts[0::2]))


async def test_choices_of_a_stream_come_as_they_are_drawn(api_serve, api_engine, api_tokenizer):
    texts = ["a b c d", "one two three", "x"]
    scripts = [api_tokenizer.encode(text) for text in texts]
    engine = api_engine(lambda generation: [*scripts[generation.sampling.stream], Drawn(finish="length")])
    async with api_serve(engine) as server:
        stream = await server.openai.completions.create(model=MODEL, prompt="Hi", n=3, stream=True)
        got, order, finishes = ["", "", ""], [], {}
        async for chunk in stream:
            (choice,) = chunk.choices
            got[choice.index] += choice.text
            order.append(choice.index)
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
        assert got == texts
        assert finishes == dict.fromkeys(range(3), "length")
        assert order[:3] == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_text_and_frees_the_sequence(api_serve, api_says, stream):
    async with api_serve(api_says("one two END three", again=True)) as server:
        asked = {"model": MODEL, "prompt": "Hi", "stop": [" END th", "never"], "max_tokens": 400}
        answer = await server.openai.completions.create(**asked, stream=stream)
        choices = [chunk.choices[0] async for chunk in answer] if stream else answer.choices
        assert "".join(choice.text for choice in choices) == "one two"
        assert choices[-1].finish_reason == "stop"
        assert not server.engine.running


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_of_a_chat(api_serve, api_says, stream):
    async with api_serve(api_says("Hi 🦔")) as server:
        answer = await server.openai.chat.completions.create(
            model=MODEL, messages=HI, logprobs=True, top_logprobs=2, stream=stream
        )
        if stream:
            parts = [chunk.choices[0].logprobs async for chunk in answer]
            content = [token for part in parts if part for token in part.content]
        else:
            content = answer.choices[0].logprobs.content
        assert bytes(byte for token in content for byte in token.bytes).decode() == "Hi 🦔"
        assert all(len(token.top_logprobs) == 2 and token.logprob == -0.5 for token in content)


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_with_log_probabilities_scores_the_prompt(api_serve, api_says, stream):
    async with api_serve(api_says(" world")) as server:
        answer = await server.openai.completions.create(
            model=MODEL, prompt="Hello there", echo=True, logprobs=1, max_tokens=1, stream=stream
        )
        if stream:
            choices = [chunk.choices[0] async for chunk in answer]
            scores = [choice.logprobs for choice in choices if choice.logprobs]
            text = "".join(choice.text for choice in choices)
            tokens, logprobs, offsets = (
                [item for part in scores for item in getattr(part, name)]
                for name in ("tokens", "token_logprobs", "text_offset")
            )
        else:
            (choice,) = answer.choices
            text, scores = choice.text, choice.logprobs
            tokens, logprobs, offsets = scores.tokens, scores.token_logprobs, scores.text_offset
        there = float(server.engine.asked[0].prompt[-1])
        assert text == "Hello there world"
        assert tokens == ["Hello", " there", " world"]
        assert logprobs == [None, -there, -0.5]
        assert offsets == [0, 5, 11]


async def test_a_prompt_alone_is_scored_with_no_token_drawn(api_serve, api_says):
    async with api_serve(api_says("never")) as server:
        answer = await server.openai.completions.create(
            model=MODEL, prompt="Hello there", echo=True, logprobs=0, max_tokens=0
        )
        assert answer.choices[0].text == "Hello there"
        assert len(answer.choices[0].logprobs.token_logprobs) == 2
        assert answer.usage.completion_tokens == 0


async def test_best_of_answers_the_likeliest(api_serve, api_engine, api_tokenizer):
    words = api_tokenizer.encode(" bad good fine")

    def script(generation):
        token = words[generation.sampling.stream]
        from potluck.proto.step import TokenScore

        return [Drawn(token, TokenScore([-3.0, -1.0, -2.0][generation.sampling.stream], [])), Drawn(finish="length")]

    async with api_serve(api_engine(script)) as server:
        answer = await server.openai.completions.create(model=MODEL, prompt="Hi", n=2, best_of=3)
        assert [choice.text for choice in answer.choices] == [" good", " fine"]
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage.completion_tokens == 3


async def test_what_is_asked_reaches_the_engine(api_serve, api_says):
    async with api_serve(api_says("x")) as server:
        await server.openai.chat.completions.create(
            model=MODEL,
            messages=HI,
            seed=5,
            temperature=0.5,
            top_p=0.9,
            presence_penalty=1,
            frequency_penalty=-1,
            logit_bias={"7": -100},
            max_completion_tokens=9,
            extra_body={"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True, "stop_token_ids": [9]},
        )
        (asked,) = server.engine.asked
        sampling = asked.sampling
        assert (sampling.seed, sampling.temperature, sampling.top_p, sampling.top_k) == (5, 0.5, 0.9, 4)
        assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
        assert (sampling.min_p, sampling.repetition_penalty, sampling.logit_bias) == (0.1, 1.2, {7: -100})
        assert (asked.max_tokens, asked.end_ids) == (9, {9})


async def test_an_unready_engine_is_a_503_with_retry_after(api_serve, api_says):
    refusal = GenerationError("no plan is in force: attic left", 503, retry_after=7)
    async with api_serve(api_says("x", refusal=refusal, ready=False)) as server:
        with pytest.raises(openai.InternalServerError, match="attic left") as failed:
            await server.openai.chat.completions.create(model=MODEL, messages=HI, stream=True)
        assert failed.value.status_code == 503
        assert failed.value.response.headers["retry-after"] == "7"
        health = await server.http.get("/health")
        assert (health.status_code, health.json()["reason"]) == (503, "attic left")
        assert health.json()["nodes"] == [{"node": "attic", "alive": False}]


@pytest.mark.parametrize(("status", "kind"), [(429, openai.RateLimitError), (400, openai.BadRequestError)])
async def test_a_refusal_has_its_own_status(api_serve, api_says, status, kind):
    async with api_serve(api_says("x", refusal=GenerationError("the queue is full", status))) as server:
        with pytest.raises(kind, match="the queue is full") as failed:
            await server.openai.completions.create(model=MODEL, prompt="Hi")
        assert ("retry-after" in failed.value.response.headers) is (status == 429)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_first_token_is_a_status(api_serve, api_engine, stream):
    engine = api_engine(lambda generation: [GenerationError("node attic left; try again", 503)])
    async with api_serve(engine) as server:
        with pytest.raises(openai.InternalServerError, match="node attic left"):
            await server.openai.completions.create(model=MODEL, prompt="Hi", n=3, stream=stream)
        assert not engine.running


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(api_serve, api_engine, api_tokenizer):
    script = [*api_tokenizer.encode("one two"), GenerationError("node attic left; try again", 503)]
    async with api_serve(api_engine(lambda generation: script)) as server:
        stream = await server.openai.completions.create(model=MODEL, prompt="Hi", n=2, stream=True)
        texts = []
        with pytest.raises(openai.APIError, match="node attic left"):
            async for chunk in stream:
                texts.append(chunk.choices[0].text)
        assert texts.count("one") >= 1
        asked = {"model": MODEL, "prompt": "Hi", "stream": True}
        lines = (await server.http.post("/v1/completions", json=asked)).text.split("\n\n")
        assert '"error":{"message":"node attic left' in lines[-3]
        assert lines[-2:] == ["data: [DONE]", ""]
        assert not server.engine.running


async def test_a_key_is_needed_where_there_is_one(api_serve, api_says):
    async with api_serve(api_says("x"), api_keys=("secret", "other")) as server:
        with pytest.raises(openai.AuthenticationError, match="needs an API key"):
            await server.openai.models.list()
        assert (await server.http.get("/metrics")).status_code == 401
        assert (await server.http.get("/health")).status_code == 200
        allowed = server.openai.with_options(api_key="secret")
        assert len((await allowed.models.list()).data) == 1


async def test_text_becomes_tokens_and_back(api_serve, api_says, api_tokenizer):
    async with api_serve(api_says("x")) as server:
        made = (await server.http.post("/tokenize", json={"content": "Hello there"})).json()
        assert made["tokens"] == api_tokenizer.encode("Hello there")
        assert made["count"] == 2
        back = await server.http.post("/detokenize", json={"tokens": made["tokens"]})
        assert back.json()["content"] == "Hello there"
        chat = (await server.http.post("/tokenize", json={"messages": HI})).json()
        assert chat["tokens"] == api_tokenizer.encode_chat(HI)
        assert (await server.http.post("/detokenize", json={"tokens": [2**40]})).status_code == 400


async def test_64_streams_at_once_all_end(api_serve, api_says):
    async with api_serve(api_says("one two three four five")) as server:
        asked = {"model": MODEL, "prompt": "Hi", "stream": True}
        answers = await asyncio.gather(*(server.http.post("/v1/completions", json=asked) for _ in range(64)))
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
        assert not server.engine.running
