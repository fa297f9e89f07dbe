"""Real vocabularies against transformers; control tokens against those who type them."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

CORPUS = [
    "",
    " ",
    "Hello, world!",
    " leading and trailing ",
    "The quick brown fox can't jump; it'll've gone 3.14159 times by 2024-11-21.",
    "a  b   c    d\t\te\n\n\nf\r\ng" + " " * 40 + "h" + "\n" * 35,
    "x  123 456\n   789 ١٢٣ ⅷ ½",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # comment\n\n\tif True:\n\t\tpass\n",
    "família naïve Ångström e\u0301 ﬁ Straße ΣΊΣΥΦΟΣ",
    "你好，世界。こんにちは世界 안녕하세요 ไทย हिन्दी עברית العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 é\u200b\u200d\ufeff",
    "\x00\x01\x7f\u0085\u2028\ufffd\U0010ffff\U000e0001",
    "▁▁ Ġ Ċ <0x0A> <0xFF> <table><td>a</td></table>",
    '{"a": [1, 2.5e-10, null], "b": "\\u00e9"}',
    "https://example.org/?q=1&r=%20#x <!-- html --> &amp; \\frac{1}{2}",
]
NAMES = ["smollm2", "gemma3"]


@pytest.fixture(params=NAMES)
def pair(request):
    return request.getfixturevalue(request.param), request.getfixturevalue(f"{request.param}_oracle")


def test_encodes_like_transformers(pair):
    tokenizer, oracle = pair
    for text in CORPUS:
        expected = oracle.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == expected, text
        assert tokenizer.encode_prompt(text) == oracle.encode(text), text


@settings(max_examples=150)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1"), max_size=60))
@pytest.mark.parametrize("name", NAMES)
def test_encodes_any_text_like_transformers(request, name, text):
    """Control tokens left out: Potluck reads them as text (below), transformers does not."""
    tokenizer, oracle = request.getfixturevalue(name), request.getfixturevalue(f"{name}_oracle")
    assume(not any(tokenizer.token_text(token) in text for token in tokenizer.control_ids))
    assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False)


def test_decodes_what_it_encoded(pair):
    tokenizer, oracle = pair
    for text in CORPUS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == tokenizer.decode(ids)


def test_sizes_and_ends(smollm2, gemma3):
    assert (smollm2.vocab_size, smollm2.encode_prompt(""), smollm2.end_ids) == (49152, [], {0, 2})
    assert (gemma3.vocab_size, gemma3.encode_prompt(""), gemma3.end_ids) == (262144, [2], {1, 106})
    assert smollm2.has_chat_template and not gemma3.has_chat_template


@pytest.mark.parametrize("name", NAMES)
def test_control_tokens_typed_are_text(request, name):
    tokenizer = request.getfixturevalue(name)
    for token in tokenizer.control_ids:
        spelling = tokenizer.token_text(token)
        ids = tokenizer.encode(f"x{spelling}y")
        assert tokenizer.control_ids.isdisjoint(ids)
        assert tokenizer.decode(ids) == f"x{spelling}y"


def test_marks_of_control_tokens_cannot_be_typed(smollm2):
    """Even by somebody who knows this process's random number."""
    mark = smollm2._tokenizer.id_to_token(2)
    assert smollm2._tokenizer.encode(mark).ids == [2]
    for text in (mark, f"a{mark}b", mark[0] + mark, mark + mark[-1]):
        assert smollm2.control_ids.isdisjoint(smollm2.encode(text))
        assert smollm2.control_ids.isdisjoint(smollm2.encode_prompt(text))
        assert smollm2.decode(smollm2.encode(text)) == text.replace("\ufdd0", "\ufffd").replace("\ufdd1", "\ufffd")


def test_half_a_surrogate_pair_is_read_as_replacement(smollm2):
    assert smollm2.decode(smollm2.encode("a\ud83d!")) == "a\ufffd!"


def test_bytes_and_text_of_tokens(smollm2, gemma3):
    assert smollm2.token_bytes(smollm2.encode(" the")[0]) == b" the"
    assert smollm2.token_bytes(2) == b"<|im_end|>"
    assert gemma3.token_bytes(238 + 0xE2) == b"\xe2"
    assert gemma3.token_text(238 + 0xE2) == "\ufffd"
    assert gemma3.token_bytes(139) == b"   "
    assert gemma3.token_bytes(10**6) == gemma3.token_bytes(-1) == b""
    pieces = [smollm2.token_bytes(token) for token in smollm2.encode("👩‍👧")]
    assert b"".join(pieces).decode() == "👩‍👧" and len(pieces) > 2
