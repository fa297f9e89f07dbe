"""Tiny random-weight models of every family, as safetensors with a tokenizer, or as GGUF.

Test modules use the fixtures `tiny_model` and `tiny_gguf` of tests/conftest.py, which cache what is made here.
"""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = "the quick brown fox jumps over the lazy dog and brings what it has to the table; everybody shares the meal "
_SHARED = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": None,
}
# Original contexts and windows are so small that sequences of a few dozen tokens feel them.
_LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_LLAMA3_ROPE |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_GEMMA_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0},
}
FAMILIES = {
    "llama2": (LlamaConfig, {"num_key_value_heads": 4}),
    "llama3": (LlamaConfig, {"rope_parameters": _LLAMA3_ROPE}),
    "linear": (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}}),
    "yarn": (
        Qwen2Config,
        {
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0}
            | {"original_max_position_embeddings": 128}
        },
    ),
    "mistral": (MistralConfig, {"sliding_window": 8}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma3": (
        Gemma3TextConfig,
        {"head_dim": 32, "num_key_value_heads": 1, "query_pre_attn_scalar": 24, "sliding_window": 8}
        | {"sliding_window_pattern": 3, "rope_parameters": _GEMMA_ROPES},
    ),
}
_SCALE_OFFSETS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
_SCALE = {"Q2_K": 1e-2, "Q3_K": 5e-3, "Q4_K": 5e-4, "Q5_K": 3e-4, "Q6_K": 2e-4}
# What mins are multiplied by is the second scale: so much larger, weights are about 0 in the mean. Else all rows of a
# matrix are alike, and a model says the same token for ever.
_MINS = {"Q4_K": 7.5, "Q5_K": 15.5}


def build_tiny_model(folder: Path, family: str, layers: int = 4, **config) -> Path:
    """Write config, safetensors and a tokenizer with a ChatML template into a folder."""
    kind, own = FAMILIES[family]
    # A test's own numbers must not depend on whether it is the first to ask for this model.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(kind(**{**_SHARED, **own, "num_hidden_layers": layers, **config}))
        for name, parameter in model.named_parameters():
            _randomise(name, parameter.data, gemma=family == "gemma3")
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _randomise(name: str, weight: torch.Tensor, gemma: bool) -> None:
    """Wide enough that logits are well apart and layers outweigh the embedding; no norm weight is neutral.

    Gemma multiplies by one plus the norm weight, and its tied embedding by the root of its width: without the smaller
    embedding it would only repeat the last token.
    """
    if "norm" in name:
        weight.normal_(1.0, 0.3)
    elif gemma and "embed" in name:
        weight.normal_(0.0, 0.1)
    elif name.endswith("bias"):
        weight.normal_(0.0, 0.5)
    elif "lm_head" in name or "embed" in name:
        weight.normal_(0.0, 0.4)
    else:
        weight.normal_(0.0, 1.6 * weight.shape[-1] ** -0.5)


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[2], chat_template=CHATML
    )


def write_gguf(folder: Path, target: Path, encoding: str = "F32") -> Path:
    """Write the tiny model in a folder as llama.cpp's converter does, its matrices in this encoding.

    K-quants, which the gguf package cannot make, get random blocks: a valid file of a different model.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    arch = {"gemma3_text": "gemma3", "mistral": "llama"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(target, arch)
    _write_shape(writer, config, arch)
    _write_tokenizer(writer, folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = _converted(name, tensor.numpy(), config, arch)
        _add(writer, names.get_name(name, try_suffixes=(".weight", ".bias")), values, encoding)
    for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        part()
    return target


def _write_shape(writer: gguf.GGUFWriter, config, arch: str) -> None:
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if arch == "gemma3":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
        writer.add_float32("gemma3.rope.freq_base_swa", config.rope_parameters["sliding_attention"]["rope_theta"])
        writer.add_float32("gemma3.attention.scale", config.query_pre_attn_scalar**-0.5)
    _write_rope_scaling(writer, rope, head_dim)


def _write_rope_scaling(writer: gguf.GGUFWriter, rope: dict, head_dim: int) -> None:
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        wavelengths = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        turns = rope["original_max_position_embeddings"] / wavelengths
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        writer.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / factor + smooth)).astype(np.float32))


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = [tokenizer.convert_ids_to_tokens(index) for index in range(len(tokenizer))]
    tokens += [f"[PAD{index}]" for index in range(len(tokens), 320)]
    types = [3] * len(SPECIAL) + [1] * (len(tokenizer) - len(SPECIAL)) + [5] * (320 - len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = tokenizer.backend_tokenizer.model.__getstate__()
    writer.add_token_merges([" ".join(pair) for pair in _merges(merges)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _merges(state: bytes) -> list[list[str]]:
    import json

    return [pair if isinstance(pair, list) else pair.split(" ") for pair in json.loads(state)["merges"]]


def _converted(name: str, values: np.ndarray, config, arch: str) -> np.ndarray:
    """llama.cpp interleaves the rotary halves of q and k for `llama`, and adds one to Gemma's norm weights."""
    if arch == "gemma3" and "norm" in name:
        return values + 1
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for projection, count in heads.items():
        if arch == "llama" and projection in name:
            halves = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
            return halves.swapaxes(1, 2).reshape(values.shape)
    return values


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, encoding: str) -> None:
    kind = gguf.GGMLQuantizationType[encoding]
    if values.ndim == 1:
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    elif encoding in _SCALE:
        writer.add_tensor(name, random_blocks(encoding, values.shape), raw_dtype=kind)
    else:
        writer.add_tensor(name, quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)


def random_blocks(encoding: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random K-quant blocks, (rows, bytes of a row), whose scales are finite and give weights of about 0.1."""
    size, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[encoding]]
    blocks = np.random.default_rng(1).integers(0, 256, (shape[0] * shape[1] // size, nbytes), dtype=np.uint8)
    for number, offset in enumerate(_SCALE_OFFSETS[encoding]):
        scale = _SCALE[encoding] * (_MINS.get(encoding, 1.0) if number else 1.0)
        blocks[:, offset : offset + 2] = np.array([scale], dtype="<f2").view(np.uint8)
    return blocks.reshape(shape[0], -1)
