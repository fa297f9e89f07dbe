"""Merges recovered from pieces: the rules of transformers, and a cache that may be damaged."""

import pytest
from transformers.tokenization_utils_base import generate_merges

from potluck.models import merges
from potluck.models.merges import cached_merges, derive_merges, finite_scores
from potluck.models.vocabulary import TokenizerError

TEXTS = ["<s>", "a", "b", "c", "ab", "bc", "abc", "abab", "cab", "s>", "<", "ba", "aba"]
PIECES = {text: token for token, text in enumerate(TEXTS)}
SCORES = [0.0, -9.0, -8.0, -7.0, -1.0, -2.0, -2.0, -3.0, -2.0, -4.0, -5.0, -1.0, -2.0]


def test_same_merges_as_transformers():
    scores = dict(zip(TEXTS, SCORES, strict=True))
    assert derive_merges(PIECES, SCORES, frozenset()) == generate_merges(PIECES, scores)


def test_no_merge_makes_a_control_token():
    assert ("<", "s>") in derive_merges(PIECES, SCORES, frozenset())
    assert ("<", "s>") not in derive_merges(PIECES, SCORES, frozenset({0}))


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x93NUMPY\x01\x00", None])
def test_cache_is_read_and_survives_damage(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(merges, "_WORTH_CACHING", 1)
    expected = derive_merges(PIECES, SCORES, frozenset())
    assert cached_merges(PIECES, SCORES, frozenset(), tmp_path) == expected
    (file,) = tmp_path.iterdir()
    if damage is not None:
        file.write_bytes(damage)
        assert cached_merges(PIECES, SCORES, frozenset(), tmp_path) == expected
    monkeypatch.setattr(merges, "derive_merges", lambda *_: pytest.fail("the cache was not read"))
    assert cached_merges(PIECES, SCORES, frozenset(), tmp_path) == expected


def test_other_scores_are_another_cache_file(tmp_path, monkeypatch):
    monkeypatch.setattr(merges, "_WORTH_CACHING", 1)
    for scores in (SCORES, SCORES[::-1]):
        assert cached_merges(PIECES, scores, frozenset(), tmp_path) == derive_merges(PIECES, scores, frozenset())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("scores", [[1.0], [float("nan"), 1.0], ["a", 1.0]])
def test_scores_that_are_none(scores):
    with pytest.raises(TokenizerError, match="2 scores"):
        finite_scores(scores, 2)
