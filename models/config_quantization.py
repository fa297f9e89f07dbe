"""The `quantization_config` of a Hugging Face `config.json`: GPTQ and AWQ are read, every other kind is refused.

Field names and defaults are those of transformers' GPTQConfig and AwqConfig, and of GPTQModel's quantize_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from potluck.models.families import UnsupportedModel
from potluck.models.fields import Fields
from potluck.models.grouped_format import GroupedFormat

_KEY = "quantization_config"
_REMEDY = "GPTQ of 4 or 8 bits and AWQ as 'gemm' are; take one of those, a GGUF file, or the unquantised model"


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the quantised matrices of a folder are stored.

    Attributes:
        method, bits, less_one: as in `GroupedFormat`.
        group: inputs that share a scale; None for all of them.
        varied: single matrices may differ in bits and group (GPTQModel's `dynamic`); their shapes tell.
        act_order: inputs were sorted before they were grouped, so that matrices need a g_idx.
    """

    method: Literal["GPTQ", "AWQ"]
    bits: int
    group: int | None
    less_one: bool
    varied: bool
    act_order: bool

    def formats(self, columns: int, groups: int) -> list[GroupedFormat]:
        """The formats that a matrix of so many inputs in so many groups may have, the likeliest first.

        A group that is larger than the matrix is the whole matrix.
        """
        sizes, bits = [min(self.group or columns, columns)], [self.bits]
        if self.varied:
            sizes += [columns // groups] if groups and columns % groups == 0 and columns >= groups else []
            bits += [12 - self.bits] if self.method == "GPTQ" else []
        return [GroupedFormat(self.method, b, size, self.less_one) for b in bits for size in sizes]


def quantization_of(config: Mapping[str, object], source: str) -> Quantization | None:
    """How a folder's matrices are quantised; None where they are not.

    Args:
        config: the parsed `config.json`.
        source: the file, for error messages.

    Raises:
        CheckpointError: a field is missing or malformed.
        UnsupportedModel: the kind of quantisation is not supported.
    """
    fields = Fields(config, source)
    if not config.get(_KEY) and config.get("text_config"):
        fields = fields.inner("text_config")
    if not fields.data.get(_KEY):
        return None
    fields = fields.inner(_KEY)
    match fields.data.get("quant_method"):
        case "gptq":
            return _gptq(fields)
        case "awq":
            return _awq(fields)
        case other:
            raise _refused(fields, f"with quant_method {str(other)[:40]!r}")


def _gptq(fields: Fields) -> Quantization:
    bits = fields.integer("bits")
    if bits not in (4, 8):
        raise _refused(fields, f"to {bits} bits")
    kind = _layout(fields, ("checkpoint_format", "format"), "gptq")
    if kind not in ("gptq", "gptq_v2") or fields.flag("is_marlin_format", False):
        raise _refused(fields, f"in GPTQ's format {kind[:40] if kind != 'gptq' else 'marlin'!r}")
    ordered = fields.flag("desc_act", False) and not fields.flag("static_groups", False)
    return Quantization("GPTQ", bits, _group(fields), kind == "gptq", bool(fields.data.get("dynamic")), ordered)


def _awq(fields: Fields) -> Quantization:
    bits = fields.integer("bits", 4)
    kind = _layout(fields, ("version", "checkpoint_format", "format"), "gemm")
    if bits != 4 or kind != "gemm" or fields.data.get("backend") == "llm-awq":
        raise _refused(fields, f"to {bits} bits in AWQ's format {kind[:40]!r}")
    return Quantization("AWQ", bits, _group(fields), False, bool(fields.data.get("dynamic")), False)


def _layout(fields: Fields, keys: tuple[str, ...], default: str) -> str:
    """The first of the fields that is there: newer and older writers call it differently."""
    return next((fields.text(key) for key in keys if fields.has(key)), default).lower()


def _group(fields: Fields) -> int | None:
    return None if fields.data.get("group_size") == -1 else fields.integer("group_size", 128)


def _refused(fields: Fields, what: str) -> UnsupportedModel:
    return UnsupportedModel(fields.source, f"a checkpoint quantised {what} ({_REMEDY})")
