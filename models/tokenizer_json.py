"""Reads the tokenizer of a Hugging Face folder: tokenizer.json and the files that say what its tokens are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from potluck.models.control_tokens import END_OF_TURN, looks_like_control
from potluck.models.json_file import read_json
from potluck.models.vocabulary import AddedToken, Spelling, TokenizerError, Usage, Vocabulary

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_SPACE = "\u2581"


def read_folder_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary in a folder.

    Raises:
        CheckpointError: something is missing, damaged or of an unsupported kind.
    """
    if not (folder / "tokenizer.json").is_file():
        raise TokenizerError(f"{folder} has no tokenizer.json; save it there with transformers' save_pretrained(...)")
    data = read_json(folder / "tokenizer.json")
    added = _added(data.get("added_tokens"))
    decoders = list(_steps(data.get("decoder"), "decoders"))
    model = data.get("model")
    if not isinstance(model, dict):
        raise TokenizerError(f"{folder.name}/tokenizer.json has no model; download it again")
    return Vocabulary(
        model=model,
        added=added,
        normalizer=_object(data.get("normalizer")),
        pre_tokenizer=_object(data.get("pre_tokenizer")),
        spelling=_spelling(decoders),
        strip_space=any(_strips_space(step) for step in decoders),
        usage=_usage(folder, data, _ids(model, added)),
    )


def _object(value: object) -> Mapping[str, object] | None:
    if value is not None and not isinstance(value, dict):
        raise TokenizerError("tokenizer.json has a step that is no object; download it again")
    return value


def _steps(value: object, inner: str) -> Iterator[Mapping[str, object]]:
    """A step, or those of a sequence."""
    step = _object(value)
    if step is None:
        return
    steps = step.get(inner)
    if step.get("type") != "Sequence" or not isinstance(steps, list):
        yield step
        return
    for each in steps:
        yield from _steps(each, inner)


def _added(value: object) -> tuple[AddedToken, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TokenizerError("tokenizer.json: added_tokens is no list; download it again")
    return tuple(sorted((_added_token(each) for each in value), key=lambda token: token.id))


def _added_token(value: object) -> AddedToken:
    token = value if isinstance(value, dict) else {}
    text, number = token.get("content"), token.get("id")
    if not isinstance(text, str) or not text or type(number) is not int or number < 0:
        raise TokenizerError(f"tokenizer.json has an added token without text or id: {str(value)[:80]}; download again")
    return AddedToken(
        id=number,
        text=text,
        control=bool(token.get("special")) or looks_like_control(text),
        lstrip=bool(token.get("lstrip")),
        rstrip=bool(token.get("rstrip")),
        single_word=bool(token.get("single_word")),
        normalized=bool(token.get("normalized")),
    )


def _spelling(decoders: list[Mapping[str, object]]) -> Spelling:
    """How pieces spell bytes shows in the steps that undo it."""
    kinds = {str(step.get("type")) for step in decoders}
    if "ByteLevel" in kinds:
        return Spelling.BYTE_LEVEL
    if kinds & {"ByteFallback", "Metaspace"} or any(step.get("content") == " " for step in decoders):
        return Spelling.SENTENCEPIECE
    found = ", ".join(sorted(kinds)) or "none"
    raise TokenizerError(f"the tokenizer's decoder ({found}) is not supported; supported: ByteLevel, SentencePiece's")


def _strips_space(step: Mapping[str, object]) -> bool:
    if step.get("type") == "Metaspace":
        return step.get("prepend_scheme") != "never" and step.get("add_prefix_space") is not False
    return step.get("type") == "Strip" and step.get("content") == " " and step.get("start") == 1


def _ids(model: Mapping[str, object], added: tuple[AddedToken, ...]) -> dict[str, int]:
    """Ids of the tokens that other files may name."""
    vocab = model.get("vocab")
    known = dict(vocab) if isinstance(vocab, dict) else {}
    if isinstance(vocab, list):
        known = {entry[0]: token for token, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    return known | {token.text: token.id for token in added}


def _usage(folder: Path, data: Mapping[str, object], ids: Mapping[str, int]) -> Usage:
    settings = _optional(folder / "tokenizer_config.json")
    config, generation = _optional(folder / "config.json"), _optional(folder / "generation_config.json")
    variables = {name: text for name in _NAMED if (text := _token_text(settings.get(name))) is not None}
    bos = ids.get(variables.get("bos_token", ""))
    eos = ids.get(variables.get("eos_token", ""))
    ends = _eos_ids(config) | _eos_ids(generation) | (set() if eos is None else {eos})
    controls = {token.text: token.id for token in _added(data.get("added_tokens")) if token.control}
    return Usage(
        bos_id=bos if bos is not None else _bos_id(config),
        prompt_prefix=_prompt_prefix(data, ids, settings, bos),
        end_ids=frozenset(ends | {token for text, token in controls.items() if text in END_OF_TURN}),
        variables=variables,
        templates=_templates(folder, settings.get("chat_template")),
    )


def _optional(path: Path) -> Mapping[str, object]:
    return read_json(path) if path.is_file() else {}


def _token_text(value: object) -> str | None:
    """A token is named by its text or by an object with its content."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _bos_id(config: Mapping[str, object]) -> int | None:
    value = config.get("bos_token_id")
    return value if type(value) is int else None


def _eos_ids(config: Mapping[str, object]) -> set[int]:
    """One id, several, or none; models with images keep it in `text_config`."""
    text = config.get("text_config")
    value = config.get("eos_token_id", text.get("eos_token_id") if isinstance(text, dict) else None)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and token >= 0 for token in values):
        raise TokenizerError(f"eos_token_id is {str(value)[:60]}, neither a token id nor a list of them")
    return set(values)


def _prompt_prefix(
    data: Mapping[str, object], ids: Mapping[str, int], settings: Mapping[str, object], bos: int | None
) -> tuple[int, ...]:
    """What goes before a plain prompt: `add_bos_token` decides, else the post-processor's template says."""
    if isinstance(settings.get("add_bos_token"), bool) and bos is not None:
        return (bos,) if settings["add_bos_token"] else ()
    prefix: list[int] = []
    for step in _steps(data.get("post_processor"), "processors"):
        single = step.get("single")
        for item in single if isinstance(single, list) else []:
            special = item.get("SpecialToken") if isinstance(item, dict) else None
            if not isinstance(special, dict):
                break
            if special.get("id") in ids:
                prefix.append(ids[special["id"]])
    return tuple(prefix)


def _templates(folder: Path, stored: object) -> dict[str, str]:
    """Chat templates by name; a file of its own wins over tokenizer_config.json."""
    templates: dict[str, str] = {}
    if isinstance(stored, str):
        templates["default"] = stored
    for entry in stored if isinstance(stored, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str):
            templates[entry["name"]] = entry["template"]
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            templates["default"] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{folder.name}/{file.name} cannot be read as text: {error}") from None
    return templates
