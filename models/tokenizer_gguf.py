"""Reads the tokenizer of a GGUF file from its metadata (`tokenizer.*`, see ggml's docs/gguf.md)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from potluck.models.control_tokens import END_OF_TURN, looks_like_control
from potluck.models.fields import Fields
from potluck.models.merges import cached_merges, finite_scores
from potluck.models.pre_tokenizers import pre_tokenizer_named
from potluck.models.vocabulary import AddedToken, Spelling, TokenizerError, Usage, Vocabulary

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_SPACE = "\u2581"
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


class _Metadata(Fields):
    """The tokenizer's fields, and its pieces with their types."""

    def __init__(self, data: Mapping[str, object], source: str) -> None:
        super().__init__(data, source)
        self.tokens = self.texts_of("tokenizer.ggml.tokens")
        types = data.get("tokenizer.ggml.token_type")
        self.typed = types is not None
        self.types: list[int] = types if isinstance(types, list) else [_NORMAL] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise TokenizerError(f"{source}: the vocabulary's pieces and their types differ in number; download again")

    def texts_of(self, key: str) -> list[str]:
        value = self.data.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
            raise self.fail(key, "a list of texts")
        return value

    def token(self, name: str) -> int | None:
        """A token id, such as that of `bos`; None where the file has none."""
        key = f"tokenizer.ggml.{name}_token_id"
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(self.tokens):
            raise self.fail(key, f"a token id below {len(self.tokens)}")
        return value

    def with_type(self, *types: int) -> list[int]:
        return [token for token, kind in enumerate(self.types) if kind in types]


def read_gguf_vocabulary(metadata: Mapping[str, object], source: str, cache: Path | None) -> Vocabulary:
    """The vocabulary in a GGUF file's metadata.

    Args:
        metadata: as `potluck.models.gguf_metadata.read_metadata` returns it.
        source: the file's name, for messages.
        cache: a folder to keep what is slow to derive.

    Raises:
        CheckpointError: something is missing, damaged or of an unsupported kind.
    """
    if "tokenizer.ggml.model" not in metadata:
        raise TokenizerError(f"{source} holds no tokenizer; use a GGUF file converted with its vocabulary")
    fields = _Metadata(metadata, source)
    match fields.text("tokenizer.ggml.model"):
        case "gpt2":
            return _byte_level(fields)
        case "llama":
            return _sentencepiece(fields, cache)
        case "t5":
            return _unigram(fields)
        case other:
            raise TokenizerError(f"{source}: the tokenizer {other!r} is not supported; supported: gpt2, llama, t5")


def _byte_level(fields: _Metadata) -> Vocabulary:
    added = _added(fields, fields.tokens)
    pre = pre_tokenizer_named(fields.text("tokenizer.ggml.pre", "default"))
    model = {
        "type": "BPE",
        "vocab": {text: token for token, text in enumerate(fields.tokens)},
        "merges": fields.texts_of("tokenizer.ggml.merges"),
        "ignore_merges": pre.ignore_merges,
    }
    return Vocabulary(
        model=model,
        added=added,
        normalizer=pre.normalizer(),
        pre_tokenizer=pre.pre_tokenizer(),
        spelling=Spelling.BYTE_LEVEL,
        usage=_usage(fields, added, pre.add_bos),
    )


def _sentencepiece(fields: _Metadata, cache: Path | None) -> Vocabulary:
    """SentencePiece BPE. Gemma never adds a space and merges in order of ids, which its scores do not follow."""
    gemma = str(fields.data.get("general.architecture", "")).startswith("gemma")
    pieces = [_SPACE * len(text) if text.isspace() and " " in text else text for text in fields.tokens]
    added = _added(fields, pieces)
    scores = finite_scores(_scores(fields), len(pieces))
    skip = frozenset(fields.with_type(_UNKNOWN, _CONTROL, _BYTE))
    vocab = {text: token for token, text in enumerate(pieces)}
    order = [-float(token) for token in range(len(pieces))] if gemma else scores
    merges = fields.data.get("tokenizer.ggml.merges") or cached_merges(vocab, order, skip, cache)
    model = {
        "type": "BPE",
        "vocab": vocab,
        "merges": merges,
        "unk_token": _spelled(fields, pieces, "unknown"),
        "fuse_unk": True,
        "byte_fallback": True,
    }
    prefix = not gemma and fields.flag("tokenizer.ggml.add_space_prefix", True)
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "split": False}
    return Vocabulary(
        model=model,
        added=added,
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": _SPACE} if gemma else None,
        pre_tokenizer=None if gemma else {**metaspace, "prepend_scheme": "first" if prefix else "never"},
        spelling=Spelling.SENTENCEPIECE,
        strip_space=prefix,
        usage=_usage(fields, added, add_bos=True),
    )


def _unigram(fields: _Metadata) -> Vocabulary:
    added = _added(fields, fields.tokens)
    scores = finite_scores(_scores(fields), len(fields.tokens))
    charsmap = fields.data.get("tokenizer.ggml.precompiled_charsmap")
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}
    return Vocabulary(
        model={
            "type": "Unigram",
            "vocab": list(zip(fields.tokens, scores, strict=True)),
            "unk_id": fields.token("unknown"),
            "byte_fallback": bool(fields.with_type(_BYTE)),
        },
        added=added,
        normalizer=_precompiled(charsmap) if isinstance(charsmap, list) and charsmap else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        spelling=Spelling.SENTENCEPIECE,
        strip_space=True,
        usage=_usage(fields, added, add_bos=False),
    )


def _precompiled(charsmap: list[int]) -> Mapping[str, object]:
    raw = bytes(value & 0xFF for value in charsmap)  # stored as signed or as unsigned bytes
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


def _scores(fields: _Metadata) -> list[object]:
    value = fields.data.get("tokenizer.ggml.scores")
    if not isinstance(value, list):
        raise fields.fail("tokenizer.ggml.scores", "a list of numbers")
    return value


def _spelled(fields: _Metadata, pieces: list[str], name: str) -> str | None:
    token = fields.token(name)
    return None if token is None else pieces[token]


def _added(fields: _Metadata, pieces: list[str]) -> tuple[AddedToken, ...]:
    """Control tokens and user-defined ones. Runs of spaces are user-defined too, but merged like any piece.

    Files without types, and some conversions, call control tokens ordinary; their spelling or their use tells.
    """
    named = {fields.token(name) for name in ("eos", "eot", "eom", "bos")}
    added = []
    for token, (text, kind) in enumerate(zip(pieces, fields.types, strict=True)):
        control = kind in (_UNKNOWN, _CONTROL) or (token in named and not text.isspace())
        control = control or ((kind == _USER_DEFINED or not fields.typed) and looks_like_control(text))
        if text and (control or (kind == _USER_DEFINED and text == fields.tokens[token])):
            added.append(AddedToken(token, text, control))
    return tuple(added)


def _usage(fields: _Metadata, added: tuple[AddedToken, ...], add_bos: bool) -> Usage:
    bos = fields.token("bos")
    stored = [fields.token(name) for name in ("eos", "eot", "eom")]
    known = [token.id for token in added if token.control and token.text in END_OF_TURN]
    named = {name: _spelled(fields, fields.tokens, role) for name, role in _NAMED.items()}
    return Usage(
        bos_id=bos,
        prompt_prefix=(bos,) if bos is not None and fields.flag("tokenizer.ggml.add_bos_token", add_bos) else (),
        end_ids=frozenset([*known, *(token for token in stored if token is not None)]),
        variables={name: text for name, text in named.items() if text is not None},
        templates=_templates(fields.data),
    )


def _templates(metadata: Mapping[str, object]) -> dict[str, str]:
    start = "tokenizer.chat_template"
    found = {key.removeprefix(start): value for key, value in metadata.items() if key.startswith(start)}
    return {name.lstrip(".") or "default": text for name, text in found.items() if isinstance(text, str)}
