"""Whole folders in GPTQ and AWQ: their tensors, their spec, and what is refused of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from potluck.models.checkpoint import CheckpointError
from potluck.models.decode import decode
from potluck.models.encodings import encoded_bytes
from potluck.models.grouped import grouped_blocks
from potluck.models.mapped_checkpoint import needed_keys
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.roles import Role, TensorKey, shape_of
from potluck.models.safetensors_checkpoint import stored_names
from potluck.models.spec_codec import pack_spec, unpack_spec

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
Q = "model.layers.0.self_attn.q_proj."


@pytest.fixture
def quantised(tiny_model, grouped_models, tmp_path):
    """quantised(config, family="qwen2", **how) -> folder and the exact weights of all its tensors by name."""

    def make(config, family="qwen2", **how):
        folder = tmp_path / "model"
        return folder, grouped_models.quantise_folder(tiny_model(family, 2), folder, config, **how)

    return make


def assert_exact(folder, exact):
    """Every tensor of the folder decodes to the exact one; all that the spec says is kept has such blocks."""
    spec, checkpoint = read_spec(folder), open_checkpoint(folder)
    names = stored_names(spec, exact)
    for key in needed_keys(spec):
        entry, raw = checkpoint.entries[key], checkpoint.raw(key)
        assert len(raw) == entry.nbytes == encoded_bytes(entry.encoding, entry.shape)
        expected = exact[names[key]].float()
        around_zero = spec.family == "gemma3" and "norm" in key.role
        assert torch.equal(decode(entry, raw), expected + 1 if around_zero else expected), key
        if str(key) in spec.encodings:
            assert grouped_blocks(entry, raw)[0] == spec.encodings[str(key)]
    assert unpack_spec(pack_spec(spec)) == spec
    return spec, checkpoint


def all_but(*roles):
    kept = {Role.Q, Role.K, Role.V, Role.O, Role.GATE, Role.UP, Role.DOWN} - set(roles)
    return {f"{layer}.{role}" for layer in (0, 1) for role in kept}


@pytest.mark.parametrize("family", ["llama3", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("config", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_every_family(quantised, family, config):
    spec, checkpoint = assert_exact(*quantised(config, family))
    assert set(spec.encodings) == all_but()
    assert set(spec.encodings.values()) == {"INT4_G32"}
    assert checkpoint.entries[TensorKey(Role.Q, 0)].encoding == f"{config['quant_method'].upper()}4_32"
    assert checkpoint.entries[TensorKey(Role.EMBEDDING)].encoding == "F32"


@pytest.mark.parametrize("config", [GPTQ, {**GPTQ, "bits": 8}, {**GPTQ, "checkpoint_format": "gptq_v2"}])
@pytest.mark.parametrize("how", [{"sym": True}, {"act_order": True}, {"scales": torch.bfloat16}])
def test_kinds_of_gptq(quantised, config, how):
    config = {**config, "desc_act": how.get("act_order", False)}
    spec, _ = assert_exact(*quantised(config, less_one="checkpoint_format" not in config, **how))
    assert set(spec.encodings.values()) == {f"INT{config['bits']}_G32"}


@pytest.mark.parametrize("config", [GPTQ, AWQ], ids=["gptq", "awq"])
@pytest.mark.parametrize("group", [-1, 128, (1 << 31) - 1])
def test_one_group(quantised, config, group):
    """64 and 96 inputs of one group each."""
    spec, checkpoint = assert_exact(*quantised({**config, "group_size": group}))
    assert set(spec.encodings) == all_but()
    assert checkpoint.entries[TensorKey(Role.DOWN, 0)].encoding.endswith("4_96")


def test_groups_that_do_not_fill_a_matrix(quantised):
    """96 inputs in groups of 64: `down` is decoded, the others are kept as they are."""
    spec, _ = assert_exact(*quantised({**GPTQ, "group_size": 64}))
    assert set(spec.encodings) == all_but(Role.DOWN)


def test_groups_of_no_block(quantised):
    spec, _ = assert_exact(*quantised({**AWQ, "group_size": 16}))
    assert spec.encodings == {}


def test_matrices_that_stay_unquantised(quantised):
    """Matrices that are multiplied at once are kept together or not at all."""
    config = {**AWQ, "modules_to_not_convert": ["k_proj", "down_proj"]}
    spec, checkpoint = assert_exact(*quantised(config, skip=("k_proj", "down_proj")))
    assert set(spec.encodings) == all_but(Role.Q, Role.K, Role.V, Role.DOWN)
    assert checkpoint.entries[TensorKey(Role.K, 0)].encoding == "F32"


def rewritten(folder, change):
    """Change the folder's tensors by name in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def drop_g_idx(tensors):
    for name in [name for name in tensors if name.endswith("g_idx")]:
        del tensors[name]


def test_without_g_idx(quantised):
    folder, exact = quantised(GPTQ)
    with_one = open_checkpoint(folder)
    raw = bytes(with_one.raw(TensorKey(Role.Q, 0)))
    rewritten(folder, drop_g_idx)
    _, checkpoint = assert_exact(folder, exact)
    assert bytes(checkpoint.raw(TensorKey(Role.Q, 0))) == raw
    assert checkpoint.fingerprint != with_one.fingerprint


def test_act_order_without_g_idx_is_refused(quantised):
    folder, _ = quantised({**GPTQ, "desc_act": True}, act_order=True)
    rewritten(folder, drop_g_idx)
    for read in (read_spec, open_checkpoint):
        with pytest.raises(
            CheckpointError, match=r"q_proj has no g_idx, but config.json says 'desc_act'.*take a version"
        ):
            read(folder)


def test_a_quantised_head(quantised, grouped_models):
    folder, exact = quantised({**GPTQ, "lm_head": True}, "llama3")
    packed = grouped_models.pack("GPTQ", exact["lm_head.weight"].numpy(), 32, np.random.default_rng(1))

    def quantise(tensors):
        del tensors["lm_head.weight"]
        tensors |= {f"lm_head.{part}": tensor for part, tensor in packed.tensors.items()}

    rewritten(folder, quantise)
    spec, _ = assert_exact(folder, exact | {"lm_head.weight": torch.from_numpy(packed.weight_OI)})
    assert spec.encodings["head"] == "INT4_G32"


def test_matrices_of_other_bits_and_groups(quantised, grouped_models):
    """GPTQModel's `dynamic`: only with it may a matrix differ from the rest."""
    folder, exact = quantised({**GPTQ, "dynamic": {"+:.*0.self_attn.*": {"bits": 8, "group_size": 64}}})
    for part in ("q", "k", "v"):
        name = f"model.layers.0.self_attn.{part}_proj."
        packed = grouped_models.pack("GPTQ", exact[name + "weight"].numpy(), 64, np.random.default_rng(1), 8)
        exact[name + "weight"] = torch.from_numpy(packed.weight_OI)
        rewritten(
            folder, lambda tensors, name=name, new=packed: tensors.update({name + p: t for p, t in new.tensors.items()})
        )
    spec, checkpoint = assert_exact(folder, exact)
    assert checkpoint.entries[TensorKey(Role.Q, 0)].encoding == "GPTQ8_64"
    assert spec.encodings["0.q"] == "INT8_G32"
    configure(folder, dynamic=None)
    with pytest.raises(CheckpointError, match=r"q_proj.qweight is I32 of the shape \(16, 64\)"):
        open_checkpoint(folder)


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def test_fingerprint_tells_the_conventions_of_zero_points_apart(quantised):
    folder, _ = quantised(GPTQ)
    first = open_checkpoint(folder).fingerprint
    assert open_checkpoint(folder).fingerprint == first
    configure(folder, checkpoint_format="gptq_v2")
    assert open_checkpoint(folder).fingerprint != first


@pytest.mark.parametrize("piece", ["qweight", "qzeros", "scales", "g_idx"])
def test_fingerprint_changes_with_every_piece(quantised, tmp_path, piece):
    folder, _ = quantised(GPTQ, act_order=True)
    first = open_checkpoint(folder).fingerprint

    def turn(tensors):
        tensors[Q + piece] = tensors[Q + piece].flip(0)

    rewritten(folder, turn)
    assert open_checkpoint(folder).fingerprint != first


def test_spec_without_weights(quantised):
    """What is multiplied as stored is only known with the weights; the shape is known before."""
    folder, _ = quantised(GPTQ)
    (folder / "model.safetensors").unlink()
    spec = read_spec(folder)
    assert spec.encodings == {}
    assert shape_of(spec, Role.Q) == (64, 64)


def put(part, tensor):
    return lambda tensors: tensors.update({Q + part: tensor})


def drop(part):
    return lambda tensors: tensors.pop(Q + part)


HALVES = torch.ones(2, 64, dtype=torch.float16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("qzeros"), "q_proj has qweight but no qzeros; download it again"),
        (drop("scales"), "q_proj has qweight but no scales; download it again"),
        (drop("qweight"), r"lacks the tensors model.layers.0.self_attn.q_proj.weight"),
        (
            put("qweight", torch.zeros(8, 63, dtype=torch.int32)),
            r"qweight is I32 of the shape \(8, 63\), not what GPTQ4",
        ),
        (put("qweight", torch.zeros(512, dtype=torch.int32)), "qweight is I32"),
        (put("qweight", torch.zeros(6, 64, dtype=torch.int32)), "qweight is I32.*take another version"),
        (put("qweight", torch.zeros(8, 64, dtype=torch.int64)), "qweight is I64"),
        (put("qzeros", torch.zeros(1, 8, dtype=torch.int32)), "qzeros is I32"),
        (put("qzeros", torch.zeros(2, 8, dtype=torch.float32)), "qzeros is F32"),
        (put("scales", HALVES[:1]), "scales is F16"),
        (put("scales", HALVES[0, 0]), r"scales is F16 of the shape \(\)"),
        (put("scales", HALVES.float()), "scales is F32"),
        (put("g_idx", torch.zeros(63, dtype=torch.int32)), "g_idx is I32"),
        (put("g_idx", torch.zeros(64, dtype=torch.int64)), "g_idx is I64"),
        (put("g_idx", torch.full((64,), 2, dtype=torch.int32)), "g_idx names a group beyond the 2"),
        (put("g_idx", torch.full((64,), -1, dtype=torch.int32)), "g_idx names a group beyond the 2"),
    ],
)
def test_pieces_that_do_not_fit(quantised, change, message):
    folder, _ = quantised(GPTQ)
    rewritten(folder, change)
    for read in (read_spec, open_checkpoint):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
        assert "model" in str(caught.value)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16])
def test_scales_that_are_not_finite(quantised, bad, scales):
    folder, _ = quantised(GPTQ, scales=scales)
    rewritten(folder, lambda tensors: tensors[Q + "scales"].view(-1)[3].fill_(bad))
    checkpoint, key = open_checkpoint(folder), TensorKey(Role.Q, 0)
    for read in (decode, grouped_blocks):
        with pytest.raises(CheckpointError, match=r"tensor 0\.q is damaged: a scale is not finite"):
            read(checkpoint.entries[key], checkpoint.raw(key))


def test_a_scale_too_large_for_a_half(quantised):
    folder, _ = quantised(GPTQ, scales=torch.bfloat16)
    rewritten(folder, lambda tensors: tensors[Q + "scales"].view(-1)[3].fill_(1e6))
    checkpoint, key = open_checkpoint(folder), TensorKey(Role.Q, 0)
    with pytest.raises(CheckpointError, match="a scale is not finite"):
        decode(checkpoint.entries[key], checkpoint.raw(key))


def test_groups_of_unequal_size_are_decoded(quantised):
    folder, _ = quantised(GPTQ)
    rewritten(folder, put("g_idx", torch.tensor([0] * 33 + [1] * 31, dtype=torch.int32)))
    assert set(read_spec(folder).encodings) == all_but() - {"0.q", "0.k", "0.v"}


def test_quantised_weights_without_their_configuration(quantised):
    folder, _ = quantised(GPTQ)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"its config.json no quantization_config; take a version"):
        open_checkpoint(folder)


def test_configuration_of_another_model(quantised):
    folder, _ = quantised(GPTQ)
    configure(folder, group_size=64)
    with pytest.raises(CheckpointError, match=r"qzeros is I32.*not what GPTQ4_64"):
        open_checkpoint(folder)
    configure(folder, group_size=32, quant_method="awq")
    with pytest.raises(CheckpointError, match=r"qweight is I32.*not what AWQ4_32"):
        open_checkpoint(folder)


def test_norms_and_embeddings_are_never_quantised(quantised):
    folder, _ = quantised(GPTQ)

    def rename(tensors):
        tensors["model.norm.qweight"] = tensors.pop("model.norm.weight")

    rewritten(folder, rename)
    with pytest.raises(CheckpointError, match=r"lacks the tensors model\.norm\.weight"):
        open_checkpoint(folder)


def test_cut_files(quantised, tmp_path):
    folder, _ = quantised(GPTQ)
    cut = shutil.copytree(folder, tmp_path / "cut")
    data = (folder / "model.safetensors").read_bytes()
    for length in range(0, len(data), len(data) // 15):
        (cut / "model.safetensors").write_bytes(data[:length])
        for read in (read_spec, open_checkpoint):
            with pytest.raises(CheckpointError, match=r"download it again"):
                read(cut)


def test_file_cut_while_in_use(quantised):
    folder, _ = quantised(GPTQ)
    checkpoint = open_checkpoint(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="was cut to 1000 bytes while in use"):
        checkpoint.raw(TensorKey(Role.Q, 0))


def test_flipped_bits_in_the_header(quantised, tmp_path):
    """Whatever the header then says: one line, or tensors that decode."""
    folder, _ = quantised(GPTQ)
    data, rng = (folder / "model.safetensors").read_bytes(), np.random.default_rng(5)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.integers(header)] ^= 1 << rng.integers(8)
        (folder / "model.safetensors").write_bytes(changed)
        try:
            checkpoint = open_checkpoint(folder)
        except CheckpointError as error:
            assert "\n" not in str(error)
            continue
        for key, entry in checkpoint.entries.items():
            assert decode(entry, checkpoint.raw(key)).shape == entry.shape
