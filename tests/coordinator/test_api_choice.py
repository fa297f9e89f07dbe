"""A choice's text: whole characters only, end tokens and stop strings cut, scores with the text they belong to."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.coordinator.api.choice import Choice, prompt_entries
from potluck.coordinator.api.scores import chat_logprobs, completion_logprobs, token_name
from potluck.coordinator.generation import Drawn
from potluck.proto.step import TokenScore


def draw(token, **other):
    return Drawn(token, TokenScore(-0.5, [(token, -0.5)]), **other)


def play(choice, drawns):
    pieces = []
    for drawn in drawns:
        pieces.append(choice.take(drawn))
        if choice.finish:
            break
    return pieces


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


@settings(max_examples=60)
@given(text=st.text(max_size=40), stops=st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_the_text_is_what_was_drawn_up_to_the_stop(api_tokenizer, text, stops):
    tokens = api_tokenizer.encode(text)
    # Not every byte is in the vocabulary.
    text = api_tokenizer.decode(tokens)
    choice = Choice(api_tokenizer.detokenizer(), stops)
    pieces = play(choice, [*map(draw, tokens), Drawn(finish="length")])
    sent = text_of(pieces)
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        assert choice.finish == "stop"
        assert text.startswith(sent)
        assert not any(stop in sent for stop in stops)
    else:
        assert (sent, choice.finish) == (text, "length")
    entries = [entry for piece in pieces for entry in piece.entries]
    assert [entry.token for entry in entries] == tokens[: len(entries)]
    if found:
        assert all(entry.offset < len(sent) for entry in entries)
    else:
        assert len(entries) == len(tokens)


def test_no_half_character_is_sent(api_tokenizer):
    tokens = api_tokenizer.encode("🙂🦔")
    assert len(tokens) > 2
    choice = Choice(api_tokenizer.detokenizer(), [])
    pieces = play(choice, [*map(draw, tokens), Drawn(finish="length")])
    assert [piece.text for piece in pieces if piece.text] == ["🙂", "🦔"]
    assert "\ufffd" not in text_of(pieces)


def test_an_end_token_ends_without_text_and_is_counted(api_tokenizer):
    end = min(api_tokenizer.end_ids)
    choice = Choice(api_tokenizer.detokenizer(), [])
    pieces = play(choice, [*map(draw, api_tokenizer.encode("Hi there")), draw(end, finish="stop")])
    assert text_of(pieces) == "Hi there"
    assert choice.finish == "stop"
    assert choice.tokens == len(api_tokenizer.encode("Hi there")) + 1
    assert end not in [entry.token for piece in pieces for entry in piece.entries]


def test_text_held_back_for_a_stop_string_is_sent_at_the_end(api_tokenizer):
    choice = Choice(api_tokenizer.detokenizer(), ["###END"])
    pieces = play(choice, [*map(draw, api_tokenizer.encode("done ###EN")), Drawn(finish="length")])
    assert pieces[-2].text == ""
    assert text_of(pieces) == "done ###EN"


def test_offsets_count_characters_after_the_prompt(api_tokenizer):
    tokens = api_tokenizer.encode(" one two three")
    choice = Choice(api_tokenizer.detokenizer(), [], start=100)
    pieces = play(choice, [*map(draw, tokens), Drawn(finish="length")])
    assert [entry.offset for piece in pieces for entry in piece.entries] == [100, 104, 108]


def test_a_prompts_first_token_has_no_score(api_tokenizer):
    tokens = api_tokenizer.encode("one two three")
    scores = [TokenScore(-float(number), []) for number in range(1, len(tokens))]
    entries = prompt_entries(api_tokenizer, tokens, scores)
    assert [entry.offset for entry in entries] == [0, 3, 7]
    reported = completion_logprobs(api_tokenizer, entries)
    assert reported["tokens"] == ["one", " two", " three"]
    assert reported["token_logprobs"] == [None, -1.0, -2.0]
    assert reported["top_logprobs"] == [None, {" two": -1.0}, {" three": -2.0}]


def test_bytes_that_are_no_character_have_a_name_of_their_own(api_tokenizer):
    token = api_tokenizer.encode("🦔")[0]
    assert token_name(api_tokenizer, token).startswith("bytes:\\xf0")


def test_impossible_tokens_stay_json(api_tokenizer):
    token = api_tokenizer.encode("x")[0]
    entries = prompt_entries(api_tokenizer, [token, token], [TokenScore(float("-inf"), [])])
    assert chat_logprobs(api_tokenizer, entries)["content"][0]["logprob"] == -9999.0
