"""Packs float matrices as GPTQ and AWQ do, word by word with plain shifts, and makes quantised copies of tiny models.

Written from the formats' description, not from the reader: weight = scale * (number - zero point of its group).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

AWQ_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass
class Packed:
    """A quantised matrix: its tensors as the file has them, and the exact float32 weights."""

    tensors: dict[str, torch.Tensor]
    weight_OI: np.ndarray


def words_of(numbers_RN, bits, order=None):
    """Rows of numbers in rows of 32-bit words, the first number lowest."""
    a_word = 32 // bits
    words = np.zeros((len(numbers_RN), numbers_RN.shape[1] // a_word), dtype=np.uint32)
    for place in range(a_word):
        source = order[place] if order else place
        words |= numbers_RN[:, source::a_word].astype(np.uint32) << np.uint32(bits * place)
    return torch.from_numpy(words.view(np.int32).copy())


def pack(method, weight_OI, group, rng, bits=4, sym=False, less_one=True, act_order=False, scales=torch.float16):
    """Quantise a matrix. `group` -1: one group. `act_order`: inputs are dealt to groups at random."""
    outputs, inputs = weight_OI.shape
    group = inputs if group == -1 else group
    groups = -(-inputs // group)
    g_idx = np.arange(inputs) // group
    if act_order:
        g_idx = rng.permutation(g_idx)
    most = 2**bits - 1
    d_GO, z_GO = np.zeros((groups, outputs), np.float32), np.zeros((groups, outputs), np.int64)
    for g in range(groups):
        part_OI = weight_OI[:, g_idx == g]
        low, high = part_OI.min(1), part_OI.max(1)
        if sym:
            high = np.abs(part_OI).max(1)
            low = -high
        scale = torch.from_numpy((high - low) / most + 1e-4).to(scales).half().float().numpy()
        d_GO[g] = scale
        z_GO[g] = (most + 1) // 2 if sym else np.clip(np.round(-low / scale), 0, most)
    q_OI = np.clip(np.round(weight_OI / d_GO.T[:, g_idx]) + z_GO.T[:, g_idx], 0, most).astype(np.int64)
    exact_OI = (d_GO.T[:, g_idx] * (q_OI - z_GO.T[:, g_idx]).astype(np.float32)).astype(np.float32)
    d = torch.from_numpy(d_GO).to(scales)
    if method == "AWQ":
        tensors = {
            "qweight": words_of(q_OI.T, bits, AWQ_NIBBLES),
            "qzeros": words_of(z_GO, bits, AWQ_NIBBLES),
            "scales": d,
        }
        return Packed(tensors, exact_OI)
    stored_GO = (z_GO - 1) & most if less_one else z_GO
    tensors = {
        "qweight": words_of(q_OI, bits).T.contiguous(),
        "qzeros": words_of(stored_GO, bits),
        "scales": d,
        "g_idx": torch.from_numpy(g_idx.astype(np.int32)),
    }
    return Packed(tensors, exact_OI)


def quantise_folder(source: Path, target: Path, config: dict, skip=(), **how):
    """Copy a tiny model with its layers' matrices quantised; the exact weights of all tensors, by name.

    `config` becomes its quantization_config; matrices with one of `skip` in their name stay as they are; `how` goes to
    `pack`.
    """
    target.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(settings | {"quantization_config": config}))
    rng = np.random.default_rng(3)
    written, exact = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if "_proj.weight" not in name or any(part in name for part in skip):
            written[name] = exact[name] = tensor
            continue
        method = config["quant_method"].upper()
        packed = pack(method, tensor.float().numpy(), config["group_size"], rng, config["bits"], **how)
        base = name.removesuffix("weight")
        written |= {base + part: value for part, value in packed.tensors.items()}
        exact[name] = torch.from_numpy(packed.weight_OI)
    save_file(written, target / "model.safetensors")
    return exact
