"""A stream of tokens gives the same text as all of them together, and never half a character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.models.control_tokens import as_text
from potluck.models.detokenize import Detokenizer, piece_bytes
from potluck.models.vocabulary import Spelling

NAMES = ["smollm2", "gemma3"]
# Bytes of valid UTF-8 that SmolLM2's vocabulary has no token for: some control characters, planes 4 to 11.
LACKING = {"smollm2": {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2}, "gemma3": set()}


def streamed(tokenizer, ids, **how):
    detokenizer = tokenizer.detokenizer(**how)
    return [*map(detokenizer.feed, ids), detokenizer.finish()]


@settings(max_examples=200)
@given(data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_any_ids_stream_as_they_decode(request, name, data):
    tokenizer = request.getfixturevalue(name)
    some = st.integers(0, tokenizer.vocab_size - 1) | st.integers(238, 493)  # Gemma's bytes
    ids = data.draw(st.lists(some, max_size=40))
    pieces = streamed(tokenizer, ids)
    raw = b"".join(b"" if token in tokenizer.control_ids else tokenizer.token_bytes(token) for token in ids)
    assert "".join(pieces) == tokenizer.decode(ids) == raw.decode("utf-8", "replace")


@settings(max_examples=200)
@given(data=st.data())
def test_byte_level_ids_decode_like_transformers(smollm2, smollm2_oracle, data):
    ids = data.draw(st.lists(st.integers(0, smollm2.vocab_size - 1), max_size=40))
    assert smollm2.decode(ids) == smollm2_oracle.decode(ids, skip_special_tokens=True)


@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@pytest.mark.parametrize("name", NAMES)
def test_no_piece_is_half_a_character(request, name, text):
    tokenizer = request.getfixturevalue(name)
    expected = "".join(character for character in as_text(text) if LACKING[name].isdisjoint(character.encode()))
    pieces = streamed(tokenizer, tokenizer.encode(expected))
    expected = expected.replace("\u2581", " ") if name == "gemma3" else expected  # SentencePiece's own space
    assert "".join(pieces) == expected
    assert sum(piece.count("\ufffd") for piece in pieces) == expected.count("\ufffd")


def test_bytes_that_are_no_text_show_at_the_end_at_the_latest(gemma3):
    first = 238
    assert streamed(gemma3, [first + 0xF0, first + 0x9F]) == ["", "", "\ufffd"]
    assert streamed(gemma3, [first + 0xC3, first + 0x41]) == ["", "\ufffdA", ""]
    assert streamed(gemma3, [first + 0x80]) == ["\ufffd", ""]
    assert streamed(gemma3, [first + byte for byte in "é👍".encode()]) == ["", "é", "", "", "", "👍", ""]


def test_control_tokens_say_nothing(smollm2):
    assert streamed(smollm2, [1, *smollm2.encode("hi"), 2]) == ["", "hi", "", ""]


def test_ten_thousand_tokens(smollm2):
    ids = smollm2.encode("Everybody brings what they have to the table. 你好 👍\n") * 700
    assert len(ids) > 10_000
    assert "".join(streamed(smollm2, ids)) == smollm2.decode(ids)


@pytest.mark.parametrize(("strip", "text"), [(True, "a  b"), (False, " a  b")])
def test_the_space_of_sentencepiece_is_dropped_once(strip, text):
    pieces = ["", "\u2581a", "\u2581", "\u2581b"]
    detokenizer = Detokenizer(lambda token: piece_bytes(pieces[token], Spelling.SENTENCEPIECE), strip)
    assert "".join([detokenizer.feed(token) for token in range(4)]) + detokenizer.finish() == text


@pytest.mark.parametrize(
    ("piece", "spelling", "expected"),
    [
        ("Ġthe", Spelling.BYTE_LEVEL, b" the"),
        ("Ã", Spelling.BYTE_LEVEL, b"\xc3"),
        ("<｜end▁of▁sentence｜>", Spelling.BYTE_LEVEL, "<｜end▁of▁sentence｜>".encode()),
        ("<0x0A>", Spelling.SENTENCEPIECE, b"\n"),
        ("<0x0A>b", Spelling.SENTENCEPIECE, b"<0x0A>b"),
        ("\u2581é", Spelling.SENTENCEPIECE, " é".encode()),
    ],
)
def test_bytes_of_pieces(piece, spelling, expected):
    assert piece_bytes(piece, spelling) == expected
