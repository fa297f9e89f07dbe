"""A model of random weights in a GGUF file: as large as one likes, and of any quantisation. It talks nonsense."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter

_SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


@dataclass(frozen=True)
class Shape:
    """A llama's shape; the default is the 1B of the benchmarks. The embedding is tied."""

    layers: int = 16
    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 64
    ffn: int = 8192


def write_model(path: Path, tokenizer: Path, encoding: str = "Q4_0", shape: Shape | None = None) -> None:
    """Write the model, with the vocabulary and tokenizer of another GGUF file."""
    shape, kind = shape or Shape(), GGMLQuantizationType[encoding]
    writer, rng = GGUFWriter(path, "llama"), np.random.default_rng(0)
    reader = GGUFReader(tokenizer)
    vocabulary = _copy_tokenizer(reader, writer)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        "attn_q": (query, shape.hidden),
        "attn_k": (keys, shape.hidden),
        "attn_v": (keys, shape.hidden),
        "attn_output": (shape.hidden, query),
        "ffn_gate": (shape.ffn, shape.hidden),
        "ffn_up": (shape.ffn, shape.hidden),
        "ffn_down": (shape.hidden, shape.ffn),
    }
    writer.add_tensor("token_embd.weight", _blocks(rng, kind, vocabulary, shape.hidden), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(shape.hidden, np.float32))
    for layer in range(shape.layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(shape.hidden, np.float32))
        for name, (rows, columns) in sizes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", _blocks(rng, kind, rows, columns), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _blocks(rng: np.random.Generator, kind: GGMLQuantizationType, rows: int, columns: int) -> np.ndarray:
    """Random numbers with scales that keep the activations from growing."""
    block, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    for place in _SCALES[kind.name]:
        scale = np.full((len(blocks), 1), 0.2 / columns**0.5, np.float16)
        blocks[:, place : place + 2] = scale.view(np.uint8)
    return blocks.reshape(rows, -1)


def _copy_tokenizer(reader: GGUFReader, writer: GGUFWriter) -> int:
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.ggml.")}
    writer.add_tokenizer_model(fields["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(fields.get("tokenizer.ggml.pre", "default"))
    writer.add_token_list(fields["tokenizer.ggml.tokens"])
    writer.add_token_types(fields["tokenizer.ggml.token_type"])
    writer.add_token_merges(fields["tokenizer.ggml.merges"])
    writer.add_bos_token_id(fields["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(fields["tokenizer.ggml.eos_token_id"])
    return len(fields["tokenizer.ggml.tokens"])


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--tokenizer", type=Path, required=True, help="GGUF file whose vocabulary it takes")
    parser.add_argument("--encoding", default="Q4_0", choices=sorted(_SCALES), help="default: Q4_0")
    flags = parser.parse_args()
    write_model(flags.path, flags.tokenizer, flags.encoding)


if __name__ == "__main__":
    main()
