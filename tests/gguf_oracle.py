"""What transformers makes of a GGUF file, without `accelerate` and without waiting for its reader.

`from_pretrained(gguf_file=...)` wants accelerate and reads the file twice, and the gguf package's reader takes 9 s for
Gemma 3's vocabulary. Here transformers' own loading function runs over that reader, which skips long arrays (of the
tokenizer): configuration, tensor names and de-quantisation are all transformers' and gguf's, none of it ours.
"""

from pathlib import Path
from unittest import mock

import gguf
import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils.logging import disable_progress_bar

_LONG = 1000


class _SkippingReader(GGUFReader):
    """Reads long arrays as so many zeros."""

    def _get_field_parts(self, orig_offs: int, raw_type: int):
        if raw_type == GGUFValueType.ARRAY:
            kind, count = int(self._get(orig_offs, np.uint32)[0]), int(self._get(orig_offs + 4, np.uint64)[0])
            if count > _LONG:
                size = 12 + self._array_bytes(orig_offs + 12, kind, count)
                zeros = [np.zeros(1, dtype=np.uint32)]
                return size, zeros, [0] * count, [GGUFValueType.ARRAY, GGUFValueType.UINT32]
        return super()._get_field_parts(orig_offs, raw_type)

    def _array_bytes(self, start: int, kind: int, count: int) -> int:
        if kind != GGUFValueType.STRING:
            return count * np.dtype(self.gguf_scalar_to_np[GGUFValueType(kind)]).itemsize
        data, offset = memoryview(self.data), start
        for _ in range(count):
            offset += 8 + int.from_bytes(data[offset : offset + 8], "little")
        return offset - start


def load_oracle(path: Path) -> torch.nn.Module:
    """The transformers model of a GGUF file, in float32."""
    disable_progress_bar()
    with mock.patch.object(gguf, "GGUFReader", _SkippingReader):
        data = load_gguf_checkpoint(str(path))["config"]
        config = AutoConfig.for_model(data.pop("model_type"), **data)
        with torch.device("meta"):
            named = AutoModelForCausalLM.from_config(config)
        tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=named)["tensors"]
    model = type(named).from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
    return model.eval()
