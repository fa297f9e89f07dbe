"""Every decoded tensor is the one that transformers has for the same file."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM

from potluck.models.checkpoint import CheckpointError, TensorEntry
from potluck.models.decode import decode
from potluck.models.encodings import ENCODINGS
from potluck.models.mapped_checkpoint import needed_keys
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.roles import Role, TensorKey, keys_of, shape_of

FAMILIES = ["llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma3"]
BY_ROLE = {
    Role.EMBEDDING: "model.embed_tokens.weight",
    Role.OUTPUT_NORM: "model.norm.weight",
    Role.HEAD: "lm_head.weight",
    Role.ATTENTION_NORM: "input_layernorm.weight",
    Role.Q: "self_attn.q_proj.weight",
    Role.K: "self_attn.k_proj.weight",
    Role.V: "self_attn.v_proj.weight",
    Role.O: "self_attn.o_proj.weight",
    Role.Q_BIAS: "self_attn.q_proj.bias",
    Role.K_BIAS: "self_attn.k_proj.bias",
    Role.V_BIAS: "self_attn.v_proj.bias",
    Role.O_BIAS: "self_attn.o_proj.bias",
    Role.Q_NORM: "self_attn.q_norm.weight",
    Role.K_NORM: "self_attn.k_norm.weight",
    Role.GATE: "mlp.gate_proj.weight",
    Role.UP: "mlp.up_proj.weight",
    Role.DOWN: "mlp.down_proj.weight",
}


def oracle_name(spec, key):
    by_role = dict(BY_ROLE)
    if spec.post_norms:
        by_role[Role.ATTENTION_POST_NORM] = "post_attention_layernorm.weight"
        by_role[Role.FFN_NORM] = "pre_feedforward_layernorm.weight"
        by_role[Role.FFN_POST_NORM] = "post_feedforward_layernorm.weight"
    else:
        by_role[Role.FFN_NORM] = "post_attention_layernorm.weight"
    return by_role[key.role] if key.layer is None else f"model.layers.{key.layer}.{by_role[key.role]}"


def assert_equal_tensors(path, state, keys=None, tolerance=0.0):
    spec, checkpoint = read_spec(path), open_checkpoint(path)
    seen = set()
    for key in keys or needed_keys(spec):
        ours = decode(checkpoint.entries[key], checkpoint.raw(key))
        theirs = state[oracle_name(spec, key)]
        if spec.family == "gemma3" and "norm" in key.role:
            theirs = theirs + 1
        assert ours.shape == shape_of(spec, key.role)
        if tolerance:
            torch.testing.assert_close(ours, theirs.float(), rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(ours, theirs.float()), key
        seen.add(oracle_name(spec, key))
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_safetensors_of_every_family(tiny_model, family):
    folder = tiny_model(family)
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    seen = assert_equal_tensors(folder, state)
    assert seen >= set(state) - {"lm_head.weight"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sharded_half_precision(tiny_model, tmp_path, dtype):
    model = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3"), dtype=dtype)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_equal_tensors(tmp_path, model.state_dict())


def test_attention_biases_of_llama(tiny_model, tiny_gguf):
    folder = tiny_model("llama2", 2, attention_bias=True)
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert_equal_tensors(folder, state)
    seen = assert_equal_tensors(tiny_gguf("llama2", attention_bias=True), state)
    assert "model.layers.1.self_attn.k_proj.bias" in seen
    assert "model.layers.1.self_attn.o_proj.bias" in seen


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_of_every_family(tiny_model, tiny_gguf, family):
    state = AutoModelForCausalLM.from_pretrained(tiny_model(family, 2), dtype=torch.float32).state_dict()
    # Gemma's norms lose a bit when the writer adds one.
    assert_equal_tensors(tiny_gguf(family), state, tolerance=3e-7 if family == "gemma3" else 0.0)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gguf_in_every_encoding(tiny_model, tiny_gguf, encoding):
    path = tiny_gguf("qwen2", encoding)
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    checkpoint = open_checkpoint(path)
    for role, name in ((Role.Q, "blk.1.attn_q.weight"), (Role.DOWN, "blk.1.ffn_down.weight")):
        entry = checkpoint.entries[TensorKey(role, 1)]
        assert entry.encoding == encoding
        expected = dequantize(reader[name].data, reader[name].tensor_type).astype(np.float32)
        torch.testing.assert_close(decode(entry, checkpoint.raw(entry.key)), torch.from_numpy(expected), rtol=0, atol=0)
    if not encoding.endswith("_K"):
        wide = {} if "F" in encoding else {"hidden_size": 256, "intermediate_size": 256}
        state = AutoModelForCausalLM.from_pretrained(tiny_model("qwen2", 2, **wide), dtype=torch.float32).state_dict()
        assert_equal_tensors(path, state, [TensorKey(Role.Q, 1)], tolerance=0.06)


@pytest.mark.parametrize("path", ["smollm2_path", "gemma3_path"])
def test_real_models_as_transformers_reads_them(request, gguf_oracle, path):
    file = request.getfixturevalue(path)
    spec = read_spec(file)
    keys = [key for part in spec.parts() if part.layer in (0, 11, 17) for key in keys_of(spec, part)]
    keys += [TensorKey(Role.OUTPUT_NORM)]
    # Gemma's embedding is 0.7 GB of float32; a second encoding of an embedding is not worth its seconds.
    keys += [TensorKey(Role.EMBEDDING)] if spec.family == "llama" else []
    state = gguf_oracle(file).state_dict()
    norms = [key for key in keys if "norm" in key.role]
    # transformers subtracts the one of Gemma's norms in float32, and the test adds it again.
    assert_equal_tensors(file, state, norms, tolerance=1e-6)
    assert_equal_tensors(file, state, [key for key in keys if key not in norms])


def entry(encoding="F32", shape=(2, 4), **changes):
    return TensorEntry(TensorKey(Role.Q, 0), encoding, shape, 0, **changes)


@pytest.mark.parametrize(
    ("damaged", "raw", "message"),
    [
        (entry(), np.array([1, 2, np.nan, 4, 5, 6, 7, 8], "<f4").tobytes(), "damaged"),
        (entry("F16"), np.array([1, 2, np.inf, 4, 5, 6, 7, 8], "<f2").tobytes(), "damaged"),
        (entry("Q8_0", (1, 32)), b"\x00\x7c" + bytes([1] * 32), "damaged"),
        (entry(), bytes(31), "31 bytes"),
        (entry("IQ2_XS"), bytes(32), "unknown encoding"),
        (entry("Q4_0", (2, 33)), bytes(36), "blocks of 32"),
        (entry("F32", ()), bytes(4), "does not divide"),
        (entry("F32", (2, -4)), bytes(32), "does not divide"),
        (entry(transform="unpermute", heads=3), bytes(32), "3 heads"),
        (entry(transform="unpermute"), bytes(32), "0 heads"),
    ],
)
def test_damage_is_refused(damaged, raw, message):
    with pytest.raises(CheckpointError, match=message):
        decode(damaged, raw)


def test_result_is_writable_memory_of_its_own():
    raw = np.arange(8, dtype="<f4").tobytes()
    decoded = decode(entry(), memoryview(raw))
    decoded += 1
    assert np.frombuffer(raw, "<f4")[0] == 0
