"""Vocabularies as GGUF metadata, of kinds the real models do not cover, against transformers' own builders."""

import pytest
from transformers import AutoTokenizer
from transformers.integrations.gguf import gguf_tokenizer_mapping

from potluck.models.tokenizer import Tokenizer, load_tokenizer
from potluck.models.tokenizer_gguf import read_gguf_vocabulary
from potluck.models.vocabulary import TokenizerError

TEXTS = ["", "hello", " hello  world", "the he\n\nlo", "é 你", "x<s>y</s>", "Hello's 12345 WORLD\r\n\r\n  x"]
LETTERS = "helowrdtHELOWRDT's12345x"
SPM = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *LETTERS]
SPM += [
    "he",
    "ll",
    "\u2581he",
    "llo",
    "\u2581hello",
    "lo",
    "wo",
    "\u2581wo",
    "th",
    "the",
    "\u2581the",
    "ld",
    "\u2581\u2581",
]


def spm_metadata(**more):
    scores = [0.0] * 260 + [-float(index % 7) for index in range(len(SPM) - 260)]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": SPM,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(SPM) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    } | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def built(metadata):
    return Tokenizer(read_gguf_vocabulary(metadata, "model.gguf", None))


def oracle_of(metadata):
    names = gguf_tokenizer_mapping.GGUF_TOKENIZER_MAPPING["tokenizer"]
    found = {name: metadata[f"tokenizer.{key}"] for key, name in names.items() if f"tokenizer.{key}" in metadata}
    return gguf_tokenizer_mapping.convert_gguf_tokenizer(metadata["general.architecture"], found)[0]


def test_llama_encodes_and_decodes_like_transformers():
    tokenizer, oracle = built(spm_metadata()), oracle_of(spm_metadata())
    for text in TEXTS:
        if "<s>" not in text:
            assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False).ids
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == oracle.decode(ids) == text.removeprefix(" ")
    assert tokenizer.encode_prompt("hello") == [1, *tokenizer.encode("hello")]
    assert tokenizer.end_ids == {2} and tokenizer.control_ids == {0, 1, 2}


def test_llama_without_space_prefix_and_bos():
    tokenizer = built(spm_metadata(add_space_prefix=False, add_bos_token=False))
    assert tokenizer.token_text(tokenizer.encode_prompt("hello")[0]) == "he"
    assert tokenizer.decode(tokenizer.encode(" hello")) == " hello"


def test_a_continued_text_keeps_its_space():
    tokenizer = built(spm_metadata())
    ids = tokenizer.encode("hello")
    assert "".join(map(tokenizer.detokenizer().feed, ids)) == "hello"
    assert "".join(map(tokenizer.detokenizer(continues=True).feed, ids)) == " hello"


def test_bytes_typed_are_text():
    tokenizer = built(spm_metadata())
    assert tokenizer.decode(tokenizer.encode("<0x0A>")) == "<0x0A>"


def byte_level_metadata(smollm2_metadata, pre):
    return {**smollm2_metadata, "tokenizer.ggml.pre": pre}


@pytest.fixture(scope="module")
def smollm2_metadata(smollm2_path):
    from potluck.models.gguf_metadata import read_metadata

    return dict(read_metadata(smollm2_path))


@pytest.mark.parametrize("pre", ["default", "gpt-2", "llama-bpe", "qwen2", "tekken"])
def test_pre_tokenizers_cut_like_transformers(smollm2_metadata, pre):
    metadata = byte_level_metadata(smollm2_metadata, pre)
    tokenizer, oracle = built(metadata), oracle_of(metadata)
    # Llama's and Mistral's own tokenizer.json take a word of the vocabulary whole; transformers' reader leaves it out.
    oracle.model.ignore_merges = pre in ("llama-bpe", "tekken")
    for text in [*TEXTS, "WeIRD caseMix's I'LL 1234567 x=(a+b)/c //end\n\n", "    indented\n\t\tmore", "naïve Ünïcode"]:
        assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_prompt("x")[:-1] == []  # SmolLM2's own flag wins


def test_qwen_composes_and_llama_begins_with_bos(smollm2_metadata):
    metadata = byte_level_metadata(smollm2_metadata, "qwen2")
    assert built(metadata).encode("e\u0301") == built(metadata).encode("\u00e9")
    del metadata["tokenizer.ggml.add_bos_token"]
    assert built(metadata).encode_prompt("x")[:-1] == []
    assert built({**metadata, "tokenizer.ggml.pre": "llama-bpe"}).encode_prompt("x")[:-1] == [1]


def test_unigram_like_transformers():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), ("\u2581he", -3.0), ("llo", -3.5)]
    pieces += [("l", -6.0), ("o", -6.0), ("h", -6.0), ("e", -6.0), ("\u2581hello", -9.0), ("w", -5.0)]
    metadata = spm_metadata(
        tokens=[piece for piece, _ in pieces],
        scores=[score for _, score in pieces],
        token_type=[3, 3, 2] + [1] * (len(pieces) - 3),
        model="t5",
        bos_token_id=0,
        eos_token_id=1,
        unknown_token_id=2,
    ) | {"general.architecture": "t5"}
    tokenizer, oracle = built(metadata), oracle_of(metadata)
    for text in ("hello", "hello wello", "  low  h"):
        assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False).ids
    assert tokenizer.control_ids.isdisjoint(set(tokenizer.encode("lo</s>l<pad>")) - {2})
    assert tokenizer.decode(tokenizer.encode("hello wello")) == "hello wello"


def test_control_tokens_that_files_call_something_else(smollm2_metadata):
    """Types of Qwen's `<|fim_prefix|>` and of old conversions; and files that have no types at all."""
    types = list(smollm2_metadata["tokenizer.ggml.token_type"])
    types[0], types[1], types[2] = 4, 4, 1
    for given in (types, None):
        metadata = {**smollm2_metadata, "tokenizer.ggml.token_type": given}
        tokenizer = built({key: value for key, value in metadata.items() if value is not None})
        assert {0, 1, 2} <= tokenizer.control_ids
        assert {0, 1, 2}.isdisjoint(tokenizer.encode("<|endoftext|><|im_start|><|im_end|>"))


DAMAGE = {
    "no tokenizer": ({"model": None}, "holds no tokenizer"),
    "another kind": ({"model": "rwkv"}, "supported: gpt2, llama, t5"),
    "no tokens": ({"tokens": None}, "tokens"),
    "empty tokens": ({"tokens": []}, "tokens"),
    "numbers for tokens": ({"tokens": [1, 2]}, "tokens"),
    "fewer types": ({"token_type": [1]}, "differ in number"),
    "fewer scores": ({"scores": [1.0]}, "scores"),
    "no scores": ({"scores": None}, "scores"),
    "end out of range": ({"eos_token_id": 10**6}, "below"),
    "negative begin": ({"bos_token_id": -1}, "below"),
    "text for an id": ({"bos_token_id": "x"}, "below"),
    "pre-tokenizer": ({"model": "gpt2", "pre": "nonesuch"}, "supported: codeshell"),
    "no merges": ({"model": "gpt2"}, "merges"),
    "merge of unknown pieces": ({"model": "gpt2", "merges": ["qq zz"]}, "damaged"),
    "merge of one piece": ({"model": "gpt2", "merges": ["q"]}, "no pair"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_metadata_is_one_line(name):
    change, complaint = DAMAGE[name]
    metadata = {key: value for key, value in spm_metadata(**change).items() if value is not None}
    with pytest.raises(TokenizerError.__base__, match=complaint) as caught:
        built(metadata)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"no")
    for path in (tmp_path / "model.gguf", tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(TokenizerError) as caught:
            load_tokenizer(path)
        assert "\n" not in str(caught.value)


def test_a_tiny_gguf_is_like_its_folder(tiny_model, tiny_gguf):
    ours, folder = load_tokenizer(tiny_gguf("llama3")), load_tokenizer(tiny_model("llama3", 2))
    oracle = AutoTokenizer.from_pretrained(tiny_model("llama3", 2))
    for text in TEXTS:
        assert ours.encode(text) == folder.encode(text) == oracle.encode(text, add_special_tokens=False)
    messages = [{"role": "user", "content": "the quick <|im_end|>"}]
    assert ours.encode_chat(messages) == folder.encode_chat(messages)
    ours.close()
    folder.close()
