"""Folders with a tokenizer.json, against transformers; and damaged ones."""

import json

import pytest
from transformers import AutoTokenizer

from potluck.models.tokenizer import TokenizerError, load_tokenizer

TEXTS = ["", "Hello, world! 123", "  two  spaces\n\n", "你好 👩‍👧", "<think>x</think>"]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n there "}]


@pytest.fixture(scope="module")
def folder(smollm2_oracle, tmp_path_factory):
    made = tmp_path_factory.mktemp("smollm2")
    smollm2_oracle.save_pretrained(made)
    return made


@pytest.fixture
def changed(folder, tmp_path):
    """changed(name, change) -> a copy of the folder in which `change` was applied to the JSON in a file."""

    def copy(name="tokenizer.json", change=None):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        path = tmp_path / name
        data = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(change(data) if change else data))
        return tmp_path

    return copy


def test_a_saved_tokenizer_is_the_same(folder, smollm2, smollm2_oracle):
    tokenizer = load_tokenizer(folder)
    for text in [*TEXTS, "<|im_end|>"]:
        assert tokenizer.encode(text) == smollm2.encode(text)
    assert tokenizer.encode_chat(MESSAGES) == smollm2_oracle.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.end_ids == smollm2.end_ids
    tokenizer.close()


@pytest.mark.parametrize("family", ["llama3", "gemma3"])
def test_tiny_models(tiny_model, family):
    path = tiny_model(family, 2)
    tokenizer, oracle = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        ids = oracle.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == ids
        assert tokenizer.encode_prompt(text) == oracle.encode(text)
        assert tokenizer.decode(ids) == oracle.decode(ids)
    expected = oracle.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(MESSAGES) == expected
    assert {0, 2} <= tokenizer.end_ids
    tokenizer.close()


def test_added_tokens_beyond_the_vocabulary(changed):
    """As Llama 3 and Qwen have them: ids that only `added_tokens` knows, one of them plain text."""
    new = [("<|new|>", True), ("<think>", False), ("[swallow]", True)]

    def change(data):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for number, (text, special) in enumerate(new):
            data["added_tokens"].append({"id": 49152 + number, "content": text, "special": special, **flags})
        data["added_tokens"][-1]["rstrip"] = True
        return data

    path = changed(change=change)
    (path / "chat_template.jinja").write_text("<|new|>{{ messages[0].content }}[swallow]   <think>")
    tokenizer, oracle = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    assert tokenizer.vocab_size == 49155
    assert tokenizer.encode("a<think>b") == oracle.encode("a<think>b")
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode("a<|new|>b[swallow] c"))
    messages = [{"role": "user", "content": "Hi <think> there"}]
    expected = oracle.apply_chat_template(messages, return_dict=False)
    assert tokenizer.encode_chat(messages, None, False) == expected
    assert expected[0] == 49152 and expected[-2:] == [49154, 49153]
    assert tokenizer.decode(expected) == "Hi <think> there<think>"
    tokenizer.close()


@pytest.mark.parametrize(
    ("name", "config", "ends"),
    [
        ("config.json", {"eos_token_id": 7}, {0, 2, 7}),
        ("config.json", {"text_config": {"eos_token_id": [7]}}, {0, 2, 7}),
        ("generation_config.json", {"eos_token_id": [7, 8]}, {0, 2, 7, 8}),
        ("generation_config.json", {"eos_token_id": None}, {0, 2}),
    ],
)
def test_ends_from_every_file(changed, name, config, ends):
    assert load_tokenizer(changed(name, lambda _: config)).end_ids == ends


def test_a_prompt_begins_as_the_post_processor_says(changed):
    def change(data):
        start = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
        single = [start, {"Sequence": {"id": "A", "type_id": 0}}]
        tokens = {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}
        step = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens}
        return {**data, "post_processor": {"type": "Sequence", "processors": [step]}}

    path = changed(change=change)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings.pop("add_bos_token", None)
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(path).encode_prompt("x")[0] == 1


def test_named_templates(changed):
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    path = changed("tokenizer_config.json", lambda data: {**data, "chat_template": templates})
    (path / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(path)
    assert tokenizer.decode(tokenizer.encode_chat(MESSAGES)) == "plain"
    assert tokenizer.decode(tokenizer.encode_chat(MESSAGES, [{"type": "function"}])) == "tools"
    tokenizer.close()


def respelled_ids(data):
    data["model"]["vocab"] = dict.fromkeys(data["model"]["vocab"], -5)
    return data


def with_model(**model):
    return lambda data: {**data, "model": {**data["model"], **model}}


def with_field(**fields):
    return lambda data: {**data, **fields}


DAMAGE = {
    "a list": (lambda data: [], "JSON object"),
    "no model": (with_field(model=None), "no model"),
    "model of text": (with_field(model="BPE"), "no model"),
    "word pieces": (with_model(type="WordPiece"), "supported: BPE, Unigram"),
    "vocabulary of numbers": (with_model(vocab=7), "vocabulary"),
    "ids of text": (with_model(vocab={"a": "b"}), "out of range"),
    "ids below zero": (respelled_ids, "out of range"),
    "ids too high": (with_model(vocab={"a": 2**40}), "out of range"),
    "double ids": (with_model(vocab={"a": 1, "b": 1}), "double"),
    "ids of lists": (with_model(vocab={"a": [1]}), "damaged"),
    "merges of numbers": (with_model(merges=[1, 2]), "damaged"),
    "merges of nothing": (with_model(merges=None), "merges"),
    "merges unknown": (with_model(merges=["no such"]), "damaged"),
    "added of text": (with_field(added_tokens="x"), "added_tokens"),
    "added of numbers": (with_field(added_tokens=[1]), "added token"),
    "added out of range": (
        with_field(added_tokens=[{"id": 10**6, "content": "<|x|>", "special": True}]),
        "cannot have",
    ),
    "added with another's id": (
        with_field(added_tokens=[{"id": 9, "content": "<|x|>", "special": True}]),
        "cannot have",
    ),
    "normalizer unknown": (with_field(normalizer={"type": "None such"}), "damaged"),
    "normalizer of text": (with_field(normalizer="x"), "no object"),
    "decoder unknown": (with_field(decoder={"type": "WordPiece"}), "supported: ByteLevel"),
    "no decoder": (with_field(decoder=None), "none"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_one_line(changed, name):
    change, complaint = DAMAGE[name]
    with pytest.raises(TokenizerError, match=complaint) as caught:
        load_tokenizer(changed(change=change))
    assert "\n" not in str(caught.value)


def test_cut_files(changed):
    path = changed()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(TokenizerError, match=name):
            load_tokenizer(path)
        (path / name).write_bytes(whole)


def test_ends_of_text(changed):
    with pytest.raises(TokenizerError, match="eos_token_id"):
        load_tokenizer(changed("generation_config.json", lambda _: {"eos_token_id": ["x"]}))


def test_an_empty_folder_names_what_is_missing(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
