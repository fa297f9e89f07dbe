"""Opening: what a path means, what is refused, what a fingerprint tells apart."""

import json
import shutil

import pytest

from potluck.models.checkpoint import CheckpointError
from potluck.models.gguf_metadata import read_header
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.roles import Role, TensorKey


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A tiny model that the test may change."""
    return shutil.copytree(tiny_model("qwen2"), tmp_path / "model")


def test_folder_with_one_gguf(tiny_gguf, tmp_path):
    shutil.copy(tiny_gguf("llama3"), tmp_path / "a.gguf")
    assert read_spec(tmp_path) == read_spec(tmp_path / "a.gguf")
    shutil.copy(tiny_gguf("llama3"), tmp_path / "b.gguf")
    with pytest.raises(CheckpointError, match=r"2 GGUF files \(a.gguf, b.gguf, ...\); name the one"):
        open_checkpoint(tmp_path)


def test_only_pickle(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"never loads pickle.*save_pretrained"):
        open_checkpoint(copy)
    with pytest.raises(CheckpointError, match="never loads pickle"):
        read_spec(copy / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.safetensors", "name its folder"), ("config.json", "name its folder"), ("nowhere", "does not exist")],
)
def test_paths_that_name_no_model(copy, name, message):
    with pytest.raises(CheckpointError, match=message):
        read_spec(copy / name)


def test_empty_folders(tmp_path, copy):
    with pytest.raises(CheckpointError, match=r"no config\.json and no GGUF file"):
        read_spec(tmp_path)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights: neither model\.safetensors"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.bin", "a\\b.safetensors"]
)
def test_index_that_points_elsewhere(copy, name):
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="only safetensors files beside it are read"):
        open_checkpoint(copy)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": {"a": 1}}, {"weight_map": "x"}])
def test_malformed_index(copy, content):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="weight_map"):
        open_checkpoint(copy)


def test_missing_shard(copy):
    (copy / "model.safetensors").rename(copy / "model-1.safetensors")
    weights = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(CheckpointError, match=r"lacks model-2\.safetensors"):
        open_checkpoint(copy)


def test_shapes_are_checked_before_use(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 97}))
    with pytest.raises(CheckpointError, match=r"tensor 0.gate has the shape \(96, 64\).*demands \(97, 64\)"):
        open_checkpoint(copy)


def test_unstored_tensor(tiny_model):
    with pytest.raises(CheckpointError, match=r"has no tensor 9\.q"):
        open_checkpoint(tiny_model("qwen2")).raw(TensorKey(Role.Q, 9))


def test_tied_head_is_stored_once(tiny_model):
    assert TensorKey(Role.HEAD) not in open_checkpoint(tiny_model("qwen2")).entries
    assert TensorKey(Role.HEAD) in open_checkpoint(tiny_model("llama3")).entries


def test_fingerprint_is_of_content_not_of_place(copy, tiny_model):
    first = open_checkpoint(tiny_model("qwen2")).fingerprint
    assert open_checkpoint(copy).fingerprint == first
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert open_checkpoint(copy).fingerprint != first


def test_fingerprint_changes_with_any_small_tensor(tiny_gguf, tmp_path):
    source = tiny_gguf("qwen3")
    data, first = source.read_bytes(), open_checkpoint(source).fingerprint
    target = tmp_path / "x.gguf"
    for tensor in read_header(source).tensors.values():
        changed = bytearray(data)
        changed[tensor.offset] ^= 1
        target.write_bytes(changed)
        assert open_checkpoint(target).fingerprint != first, tensor.name
