"""Builds a `tokenizers.Tokenizer` whose control tokens no text can reach."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import tokenizers
from tokenizers import models

from potluck.models.vocabulary import AddedToken, TokenizerError, Vocabulary

_HIGHEST_ID = 1 << 24
_EMPTY_MODEL: dict[str, object] = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "vocab": {},
    "merges": [],
}


def build_tokenizer(vocabulary: Vocabulary, marks: Mapping[int, str]) -> tokenizers.Tokenizer:
    """The tokenizer of a vocabulary, with each control token spelled as its mark.

    The control tokens keep their ids, their flags and their place; only a text that contains the mark yields them. Also
    the model's own vocabulary loses the spelling, since BPE and Unigram models find `</s>` there without any matching.

    Raises:
        TokenizerError: the vocabulary contradicts itself or is of an unsupported kind.
    """
    try:
        tokenizer = _skeleton(vocabulary)
        tokenizer.model = _model(vocabulary, _respelled(vocabulary.added, marks))
        tokenizer.add_tokens([_added(token, marks) for token in vocabulary.added])
    except TokenizerError:
        raise
    except Exception as error:  # `tokenizers` raises the bare class for whatever it does not like
        raise TokenizerError(f"the tokenizer is damaged ({_one_line(error)}); download it again") from error
    _check_ids(tokenizer, vocabulary.added, marks)
    return tokenizer


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _skeleton(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Everything but model and added tokens; a model of 262144 pieces goes in faster as Python values than as JSON."""
    parts = {"normalizer": vocabulary.normalizer, "pre_tokenizer": vocabulary.pre_tokenizer}
    absent = dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    text = json.dumps({"version": "1.0", **absent, **parts, "added_tokens": [], "model": _EMPTY_MODEL})
    return tokenizers.Tokenizer.from_str(text)


def _respelled(added: Sequence[AddedToken], marks: Mapping[int, str]) -> dict[str, str]:
    return {token.text: marks[token.id] for token in added if token.control}


def _added(token: AddedToken, marks: Mapping[int, str]) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        marks[token.id] if token.control else token.text,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
        normalized=token.normalized,
        special=token.control,
    )


def _model(vocabulary: Vocabulary, respelled: Mapping[str, str]) -> models.Model:
    match vocabulary.model.get("type", "BPE"):
        case "BPE":
            return _bpe(vocabulary, respelled)
        case "Unigram":
            return _unigram(vocabulary.model, respelled)
        case other:
            raise TokenizerError(f"tokenizer models of type {other!r} are not supported; supported: BPE, Unigram")


def _bpe(vocabulary: Vocabulary, respelled: Mapping[str, str]) -> models.Model:
    data = vocabulary.model
    vocab = data.get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise TokenizerError("the tokenizer's vocabulary is no object of pieces and ids; download it again")
    ids = set(vocab.values())
    if len(ids) != len(vocab) or not all(type(token) is int and 0 <= token < _HIGHEST_ID for token in ids):
        raise TokenizerError("the tokenizer's vocabulary has ids that are double or out of range; download it again")
    unknown = data.get("unk_token")
    # SmolLM2 calls <|endoftext|> its unknown token: a user could write it with any character the vocabulary lacks.
    # One that is no piece would make `tokenizers` fail on such a character.
    if unknown not in vocab or vocab[unknown] in vocabulary.usage.end_ids | {vocabulary.usage.bos_id}:
        unknown = None
    options: dict[str, Any] = {name: bool(data.get(name)) for name in ("fuse_unk", "byte_fallback", "ignore_merges")}
    options |= {name: data[name] for name in ("continuing_subword_prefix", "end_of_word_suffix") if data.get(name)}
    if unknown is not None:
        options["unk_token"] = respelled.get(str(unknown), unknown)
    pieces = {respelled.get(piece, piece): token for piece, token in vocab.items()}
    return models.BPE(pieces, _merges(data.get("merges"), respelled), **options)


def _merges(merges: object, respelled: Mapping[str, str]) -> list[tuple[str, str]]:
    """The merges as pairs, without those that make a control token or start from one."""
    if not isinstance(merges, list):
        raise TokenizerError("the tokenizer's merges are no list; download it again")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    if not all(len(pair) == 2 for pair in pairs):
        raise TokenizerError("the tokenizer has a merge that is no pair; download it again")
    kept = [p for p in pairs if p[0] + p[1] not in respelled and p[0] not in respelled and p[1] not in respelled]
    return cast(list[tuple[str, str]], kept)


def _unigram(data: Mapping[str, object], respelled: Mapping[str, str]) -> models.Model:
    vocab, unknown = data.get("vocab"), data.get("unk_id")
    if not isinstance(vocab, list) or not vocab:
        raise TokenizerError("the tokenizer's vocabulary is no list of pieces and scores; download it again")
    if not isinstance(unknown, int) or not 0 <= unknown < len(vocab):
        raise TokenizerError("the tokenizer has no token for unknown characters (unk_id); download it again")
    pieces = [(respelled.get(piece, piece), float(score)) for piece, score in vocab]
    return models.Unigram(pieces, unknown, bool(data.get("byte_fallback")))


def _check_ids(tokenizer: tokenizers.Tokenizer, added: Sequence[AddedToken], marks: Mapping[int, str]) -> None:
    for token in added:
        text = marks[token.id] if token.control else token.text
        if tokenizer.token_to_id(text) != token.id:
            raise TokenizerError(
                f"the tokenizer's added token {token.text[:40]!r} cannot have the id {token.id}; download it again"
            )
