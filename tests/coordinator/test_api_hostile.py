"""Hostile and mistaken requests: a clear 4xx in OpenAI's form each, and the next request is served."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from potluck.models.tokenizer import load_tokenizer

MODEL = "tests/tiny"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": MODEL, "prompt": "Hi"}

BAD_CHATS = [
    {"model": "other"},
    {"model": 3},
    {"model": None},
    {"messages": []},
    {"messages": "Hi"},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]},
    {"messages": [{"role": "robot", "content": "x"}]},
    {"messages": [{"role": "user", "content": "x " * 600}]},
    {"messages": [{"role": "user", "content": "x " * 20000}]},
    {"n": 0},
    {"n": -1},
    {"n": 10**9},
    {"n": 10**30},
    {"n": "2"},
    {"n": True},
    {"n": 1.5},
    {"max_tokens": 0},
    {"max_tokens": -1},
    {"max_tokens": 10**18},
    {"max_completion_tokens": 512},
    {"temperature": 2.1},
    {"temperature": -0.1},
    {"temperature": "hot"},
    {"top_p": 0},
    {"top_p": 1.1},
    {"top_k": -2},
    {"presence_penalty": 2.5},
    {"frequency_penalty": -2.5},
    {"repetition_penalty": 0},
    {"logprobs": 3},
    {"logprobs": True, "top_logprobs": 21},
    {"logprobs": True, "top_logprobs": -1},
    {"top_logprobs": 3},
    {"logit_bias": {"99999999": 1}},
    {"logit_bias": {"x": 1}},
    {"logit_bias": {"1": 1000}},
    {"logit_bias": [1]},
    {"logit_bias": {"1": True}},
    {"logit_bias": {"1": "x"}},
    {"stop_token_ids": ["x"] * 100_000},
    {"seed": 10**30},
    {"seed": "x"},
    {"stop": ["x"] * 17},
    {"stop": {"x": 1}},
    {"stream": "yes"},
    {"stream_options": []},
    {"response_format": {"type": "json_object"}},
    {"response_format": "text"},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"min_tokens": 5},
]
BAD_TEXTS = [
    {"prompt": None},
    {"prompt": []},
    {"prompt": [[]]},
    {"prompt": ["a", 1]},
    {"prompt": [10**9]},
    {"prompt": [-1]},
    {"prompt": [7] * 512},
    {"prompt": [7] * 500, "max_tokens": 13},
    {"prompt": [[7]] * 129},
    {"prompt": ["a"] * 65, "n": 2},
    {"best_of": 1, "n": 2},
    {"best_of": 10**6},
    {"best_of": 2, "stream": True},
    {"logprobs": 21},
    {"logprobs": -1},
    {"logprobs": True},
    {"max_tokens": 0},
    {"echo": 1},
    {"suffix": "x"},
]
BAD_BODIES = [
    b"",
    b"null",
    b"[]",
    b"{",
    b'{"model": "tests/tiny", "prompt": "\xff\xfe"}',
    b'{"model": "tests/tiny", "prompt": "\\ud800"}',
    b'{"model": "tests/tiny", "prompt": "Hi", "temperature": NaN}',
    b'{"model": "tests/tiny", "prompt": "Hi", "temperature": Infinity}',
    b'{"model": "tests/tiny", "prompt": "Hi", "temperature": 1e999}',
    b'{"model": "tests/tiny", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"model": "tests/tiny", "prompt": "Hi", "n": ' + b"9" * 10_000 + b"}",
    b'{"prompt": "Hi", "tokens": [1], "model": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    b'{"model": "tests/tiny", "prompt": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    b'{"model": "tests/tiny", "messages": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    b'{"tokens": [' + b'"x",' * 100_000 + b"1]}",
    b"\x1f\x8b" + bytes(100),
]


async def refused(server, path, body, status=(400,)):
    answer = await server.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    assert len(error["message"]) < 400
    served = await server.http.post("/v1/completions", json=TEXT)
    assert served.json()["choices"][0]["text"] == "fine"


async def test_bad_chats(api_serve, api_says):
    async with api_serve(api_says("fine")) as server:
        for change in BAD_CHATS:
            await refused(server, "/v1/chat/completions", json.dumps({**CHAT, **change}), (400, 404))


async def test_bad_completions(api_serve, api_says):
    async with api_serve(api_says("fine")) as server:
        for change in BAD_TEXTS:
            await refused(server, "/v1/completions", json.dumps({**TEXT, **change}))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
async def test_bad_bodies(api_serve, api_says, path):
    async with api_serve(api_says("fine")) as server:
        for body in BAD_BODIES:
            await refused(server, path, body)


async def test_missing_fields_are_named(api_serve, api_says):
    async with api_serve(api_says("fine")) as server:
        answer = await server.http.post("/v1/chat/completions", json={"model": MODEL})
        assert answer.json()["error"]["param"] == "messages"
        answer = await server.http.post("/v1/completions", json={"prompt": "Hi"})
        assert "you must provide 'model'" in answer.json()["error"]["message"]


async def test_unknown_fields_and_nulls_are_ignored(api_serve, api_says):
    async with api_serve(api_says("fine")) as server:
        optional = ["n", "max_tokens", "stop", "seed", "temperature", "top_p", "logit_bias", "stream", "tools", "user"]
        body = {**CHAT, **dict.fromkeys(optional), "metadata": {"a": 1}, "service_tier": "auto", "prompt": 3}
        answer = await server.http.post("/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "fine"
        body = {
            **CHAT,
            "response_format": {"type": "text"},
            "tools": [],
            "messages": [{"role": "user", "content": "\0"}],
        }
        assert (await server.http.post("/v1/chat/completions", json=body)).status_code == 200


async def test_the_context_error_names_the_numbers(api_serve, api_says):
    async with api_serve(api_says("fine")) as server:
        answer = await server.http.post("/v1/completions", json={**TEXT, "prompt": [7] * 600})
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "512" in error["message"]
        assert "600" in error["message"]


async def test_too_large_bodies(api_serve, api_says):
    async with api_serve(api_says("fine"), max_body_bytes=10_000) as server:
        await refused(server, "/v1/completions", json.dumps({**TEXT, "prompt": "x" * 10_000}), (413,))

        async def pieces():
            for _ in range(20):
                yield b" " * 1000

        answer = await server.http.post("/v1/completions", content=pieces())
        assert answer.status_code == 413


async def test_a_body_that_never_comes(api_serve, api_says):
    async with api_serve(api_says("fine"), body_timeout_s=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 408")
        assert await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()


async def test_nothing_here_and_not_this_way(api_serve, api_says):
    async with api_serve(api_says("fine")) as server:
        missing = await server.http.get("/v1/other")
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
        wrong = await server.http.get("/v1/chat/completions")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert wrong.json()["error"]["type"] == "invalid_request_error"


async def test_other_hosts_and_pages_are_refused(api_serve, api_says):
    async with api_serve(api_says("fine"), cors_origins=("https://chat.example",)) as server:
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
            answer = await server.http.post("/v1/completions", json=TEXT, headers=headers)
            assert answer.status_code == 403
            assert answer.json()["error"]["type"] == "permission_error"
            assert "access-control-allow-origin" not in answer.headers
        page = {"origin": "https://chat.example"}
        answer = await server.http.post("/v1/completions", json=TEXT, headers=page)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        asking = {**page, "access-control-request-method": "POST"}
        assert (await server.http.options("/v1/completions", headers=asking)).status_code == 200


async def test_no_cors_unless_asked(api_serve, api_says):
    async with api_serve(api_says("fine")) as server:
        answer = await server.http.post("/v1/completions", json=TEXT, headers={"origin": server.url})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


class Held:
    """A tokenizer that is stuck at long texts until it is let go."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.go = threading.Event()

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode_prompt(self, text):
        assert len(text) < 10_000 or self.go.wait(10)
        return self.tokenizer.encode_prompt(text)

    def encode_chat(self, messages, tools=None, add_generation_prompt=True):
        self.encode_prompt(messages[0]["content"])
        return self.tokenizer.encode_chat(messages, tools, add_generation_prompt)


async def test_long_prompts_do_not_hold_up_the_others(api_serve, api_says, api_tokenizer):
    tokenizer = Held(api_tokenizer)
    async with api_serve(api_says("fine"), tokenizer) as server:
        words = "the quick brown fox " * 10_000
        chat = {**CHAT, "messages": [{"role": "user", "content": words}]}
        held = [
            asyncio.create_task(server.http.post("/v1/completions", json={**TEXT, "prompt": words})),
            asyncio.create_task(server.http.post("/v1/chat/completions", json=chat)),
        ]
        for _ in range(3):
            served = await server.http.post("/v1/completions", json=TEXT)
            assert served.status_code == 200
        assert not any(one.done() for one in held)
        tokenizer.go.set()
        assert [(await one).json()["error"]["code"] for one in held] == ["context_length_exceeded"] * 2


class WithBos(Held):
    """A tokenizer whose prompts begin with a token, as llama's do."""

    def encode_prompt(self, text):
        return [1, *self.tokenizer.encode_prompt(text)]


@pytest.mark.parametrize(
    "change", [{"prompt": ""}, {"prompt": ["Hi", ""]}, {"prompt": "", "echo": True}, {"prompt": [""]}]
)
async def test_an_empty_prompt_has_nothing_to_compute(api_serve, api_says, api_tokenizer, change):
    async with api_serve(api_says("fine")) as server:
        answer = await server.http.post("/v1/completions", json={**TEXT, **change})
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == "prompt" and not server.engine.asked
        assert error["message"].startswith("'prompt.1' is empty" if len(change["prompt"]) == 2 else "'prompt' is empty")
        streamed = await server.http.post("/v1/completions", json={**TEXT, **change, "stream": True})
        assert streamed.status_code == 400
        assert (await server.http.post("/tokenize", json={"prompt": ""})).json()["tokens"] == []
    async with api_serve(api_says("fine"), WithBos(api_tokenizer)) as server:
        assert (await server.http.post("/v1/completions", json={**TEXT, **change})).status_code == 200
        assert (1,) in [generation.prompt for generation in server.engine.asked]


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}]])
async def test_a_chat_of_no_words_is_what_the_template_makes_of_it(api_serve, api_says, api_model_file, content):
    body = {**CHAT, "messages": [{"role": "user", "content": content}]}
    async with api_serve(api_says("fine")) as server:
        assert (await server.http.post("/v1/chat/completions", json=body)).status_code == 200
        assert all(generation.prompt for generation in server.engine.asked)
    tokenizer = load_tokenizer(api_model_file, chat_template="{{ messages[0]['content'] }}")
    async with api_serve(api_says("fine"), tokenizer) as server:
        answer = await server.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400 and "come to no tokens" in answer.json()["error"]["message"]
    tokenizer.close()


async def test_what_the_template_refuses_is_the_clients_fault(api_serve, api_says, api_model_file):
    template = "{{ raise_exception('roles\nmust alternate') if messages|length > 1 else messages[0]['content'] }}"
    tokenizer = load_tokenizer(api_model_file, chat_template=template)
    async with api_serve(api_says("fine"), tokenizer) as server:
        message = {"role": "user", "content": "Hi"}
        await refused(server, "/v1/chat/completions", json.dumps({**CHAT, "messages": [message, message]}))
        assert (await server.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    tokenizer.close()


async def test_a_model_without_a_chat_template_says_so(api_serve, api_says, api_tokenizer):
    tokenizer = Held(api_tokenizer)
    tokenizer.has_chat_template = False
    async with api_serve(api_says("fine"), tokenizer) as server:
        answer = await server.http.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 400
        assert "use /v1/completions" in answer.json()["error"]["message"]


async def test_a_bug_is_a_500_without_a_traceback(api_serve, api_engine, caplog):
    def broken(generation):
        raise RuntimeError("secret detail")

    async with api_serve(api_engine(broken)) as server:
        answer = await server.http.post("/v1/completions", json=TEXT)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert answer.json()["error"]["type"] == "server_error"
    assert "secret detail" in caplog.text
