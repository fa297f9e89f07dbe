"""What a request may say: pure checks of bodies, prompts, messages, lengths, biases, hosts and keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.api.body import parse
from potluck.coordinator.api.errors import ApiError
from potluck.coordinator.api.prompts import check_tokens, parse_messages, parse_prompts
from potluck.coordinator.api.query import Length, Prompt, generations
from potluck.coordinator.api.sampling import draws, parse_logit_bias
from potluck.coordinator.api.schema import ChatBody, CompletionBody
from potluck.coordinator.api.security import default_hosts, host_allowed, key_allowed, origin_allowed
from potluck.coordinator.generation import Generation
from potluck.proto.step import Sampling

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("value", "prompts"),
    [
        ("text", ["text"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_a_prompt_is_text_ids_or_a_list_of_either(value, prompts):
    assert parse_prompts(value) == prompts


@pytest.mark.parametrize("value", [None, [], [[]], ["a", 1], [1, [2]], [True, False], [1.5], {"a": 1}, 3])
def test_other_prompts_are_refused(value):
    with pytest.raises(ApiError, match="prompt"):
        parse_prompts(value)


@given(json_values)
def test_any_prompt_is_taken_or_refused(value):
    try:
        prompts = parse_prompts(value)
    except ApiError as error:
        assert error.status == 400
    else:
        assert all(isinstance(prompt, str | list) for prompt in prompts)


@given(st.lists(json_values | st.fixed_dictionaries({"role": st.just("user"), "content": json_values}), max_size=3))
def test_any_messages_are_taken_or_refused(value):
    try:
        messages = parse_messages(value)
    except ApiError as error:
        assert error.status == 400
    else:
        assert all(isinstance(message["content"], str) for message in messages)


def test_messages_become_a_role_and_one_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    given_messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "unknown": 1},
        {"role": "assistant", "content": None},
    ]
    assert parse_messages(given_messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": ""},
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hello", "messages.0"),
        ({"content": "x"}, "messages.0.role"),
        ({"role": "robot", "content": "x"}, "messages.0.role"),
        ({"role": ["user"], "content": "x"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": 3}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}]},
            "messages.0.content.0",
        ),
    ],
)
def test_other_messages_are_refused_by_name(message, param):
    with pytest.raises(ApiError) as refused:
        parse_messages([message])
    assert refused.value.param == param


@pytest.mark.parametrize("tokens", [[-1], [100], [2**70], [0, 1, 99, 100]])
def test_ids_that_are_no_tokens_are_refused(tokens):
    check_tokens([0, 99], 100)
    with pytest.raises(ApiError, match="not in the vocabulary"):
        check_tokens(tokens, 100)


@pytest.mark.parametrize(
    ("prompt", "asked", "default", "most"),
    [(10, 5, 16, 5), (10, None, 16, 16), (95, None, 16, 5), (10, None, None, 90), (100, 0, 16, 0), (99, 1, 16, 1)],
)
def test_an_answer_is_as_long_as_fits(prompt, asked, default, most):
    assert Length(100, asked, default).max_tokens(prompt) == most


@pytest.mark.parametrize(("prompt", "asked"), [(100, None), (101, 0), (10, 91), (10, 2**60)])
def test_what_does_not_fit_is_refused_with_the_numbers(prompt, asked):
    with pytest.raises(ApiError, match=f"context is 100 tokens; the prompt has {prompt}") as refused:
        Length(100, asked, 16).max_tokens(prompt)
    assert refused.value.code == "context_length_exceeded"


def test_every_choice_has_a_stream_of_its_own():
    prompts = [Prompt((1, 2)), Prompt((3,))]
    template = Generation((), Sampling(seed=7), 0, frozenset())
    made = generations(prompts, 2, template, Length(100, 4, None))
    assert [one.prompt for one in made] == [(1, 2), (1, 2), (3,), (3,)]
    assert [one.sampling.stream for one in made] == [0, 1, 2, 3]
    assert {one.sampling.seed for one in made} == {7}
    assert [one.sampling.prompt_tokens for one in made] == [2, 2, 1, 1]


def test_defaults_are_openais():
    sampling = draws(ChatBody(model="m", messages=[]), 100)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.logprobs) == (1.0, 1.0, 0, None)
    assert 0 <= sampling.seed < 2**63
    assert draws(ChatBody(model="m", messages=[]), 100).seed != sampling.seed


@pytest.mark.parametrize("seed", [0, 1, -2, -(2**63), 2**63 - 1])
def test_a_seed_is_kept_in_63_bits(seed):
    first, second = (draws(CompletionBody(model="m", seed=seed), 100).seed for _ in range(2))
    assert first == second
    assert 0 <= first < 2**63


def test_biases_are_for_tokens_in_range():
    assert parse_logit_bias({"3": 5, "99": -100}, 100) == {3: 5.0, 99: -100.0}
    for bad in ({"100": 1}, {"-1": 1}, {"x": 1}, {"²": 1}, {"1" * 5000: 1}, {"1": 101}, {"1": -100.5}):
        with pytest.raises(ApiError, match="logit_bias"):
            parse_logit_bias(bad, 100)
    with pytest.raises(ApiError, match="at most"):
        parse_logit_bias({str(token): 1.0 for token in range(2000)}, 5000)


@given(st.binary(max_size=40) | json_values.map(lambda value: repr(value).encode()))
def test_any_bytes_are_a_body_or_refused(raw):
    with pytest.raises(ApiError) as refused:
        parse(raw, ChatBody)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("localhost.:80", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("evil.example/localhost", False),
        ("localhost:x", False),
        ("192.168.1.5", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_only_this_servers_names_are_hosts(header, allowed):
    assert host_allowed(header, default_hosts("127.0.0.1")) is allowed


def test_a_server_of_all_addresses_answers_to_any_address_but_not_to_any_name():
    hosts = default_hosts("0.0.0.0")
    assert host_allowed("192.168.1.5:8000", hosts)
    assert host_allowed("[fe80::1]:8000", hosts)
    assert not host_allowed("evil.example:8000", hosts)
    assert host_allowed("nas.lan", default_hosts("nas.lan"))
    assert host_allowed("evil.example", ("*",))


def test_pages_of_other_origins_may_not_ask():
    assert origin_allowed("http://localhost:8000", "localhost:8000", ())
    assert origin_allowed("https://chat.example", "localhost:8000", ("https://chat.example",))
    assert not origin_allowed("http://evil.example", "localhost:8000", ())
    assert not origin_allowed("http://localhost:3000", "localhost:8000", ())
    assert not origin_allowed("null", "localhost:8000", ())


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Bearer one", True),
        ("bearer two", True),
        ("Bearer three", False),
        ("Basic one", False),
        ("one", False),
        ("", False),
        ("Bearer ", False),
        ("Bearer \xff", False),
    ],
)
def test_any_of_the_keys_opens(header, allowed):
    assert key_allowed(header, ("one", "two")) is allowed
