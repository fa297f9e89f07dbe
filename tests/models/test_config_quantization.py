"""Which quantization_config is read, and what is said of the others."""

import pytest

from potluck.models.checkpoint import CheckpointError
from potluck.models.config_quantization import Quantization, quantization_of
from potluck.models.families import UnsupportedModel

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}


def read(quantization):
    return quantization_of({"quantization_config": quantization}, "x/config.json")


@pytest.mark.parametrize("quantization", [None, {}])
def test_none(quantization):
    assert read(quantization) is None
    assert quantization_of({}, "x") is None


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        (GPTQ, Quantization("GPTQ", 4, 128, True, False, False)),
        ({**GPTQ, "checkpoint_format": "gptq"}, Quantization("GPTQ", 4, 128, True, False, False)),
        ({**GPTQ, "checkpoint_format": "gptq_v2"}, Quantization("GPTQ", 4, 128, False, False, False)),
        ({**GPTQ, "format": "gptq_v2"}, Quantization("GPTQ", 4, 128, False, False, False)),
        ({**GPTQ, "bits": 8, "group_size": -1}, Quantization("GPTQ", 8, None, True, False, False)),
        ({**GPTQ, "desc_act": True}, Quantization("GPTQ", 4, 128, True, False, True)),
        ({**GPTQ, "desc_act": True, "static_groups": True}, Quantization("GPTQ", 4, 128, True, False, False)),
        ({**GPTQ, "dynamic": {"-:x": {}}}, Quantization("GPTQ", 4, 128, True, True, False)),
        ({"quant_method": "gptq", "bits": 4}, Quantization("GPTQ", 4, 128, True, False, False)),
        (AWQ, Quantization("AWQ", 4, 128, False, False, False)),
        ({**AWQ, "version": "GEMM"}, Quantization("AWQ", 4, 128, False, False, False)),
        ({"quant_method": "awq", "group_size": 64}, Quantization("AWQ", 4, 64, False, False, False)),
    ],
)
def test_read(quantization, expected):
    assert read(quantization) == expected


def test_of_the_text_part():
    config = {"text_config": {"quantization_config": AWQ}}
    assert quantization_of(config, "x") == read(AWQ)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        *(({"quant_method": kind}, f"quantised with quant_method '{kind}'") for kind in ("bitsandbytes", "fp8", "hqq")),
        ({"quant_method": "compressed-tensors"}, "quant_method 'compressed-tensors'"),
        ({"quant_method": "x" * 1000}, "quant_method 'x{40}' "),
        ({"quant_method": ["gptq"]}, "quant_method"),
        ({"load_in_4bit": True}, "quant_method 'None'"),
        ({**GPTQ, "bits": 3}, "to 3 bits"),
        ({**GPTQ, "bits": 2}, "to 2 bits"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "GPTQ's format 'marlin'"),
        ({**GPTQ, "is_marlin_format": True}, "GPTQ's format 'marlin'"),
        ({**AWQ, "version": "gemv"}, "AWQ's format 'gemv'"),
        ({**AWQ, "version": "gemv_fast"}, "AWQ's format 'gemv_fast'"),
        ({**AWQ, "bits": 8}, "to 8 bits in AWQ's format 'gemm'"),
        ({**AWQ, "backend": "llm-awq"}, "AWQ's format"),
    ],
)
def test_refused_in_one_line_with_a_remedy(quantization, message):
    with pytest.raises(UnsupportedModel, match=message) as caught:
        read(quantization)
    assert "take one of those, a GGUF file, or the unquantised model" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "gptq"}, "x/config.json, quantization_config: the field 'bits' is missing"),
        ({**GPTQ, "bits": "4"}, "'bits'"),
        ({**GPTQ, "bits": 4.0}, "'bits'"),
        ({**GPTQ, "group_size": 0}, "'group_size'"),
        ({**GPTQ, "group_size": -2}, "'group_size'"),
        ({**GPTQ, "group_size": "128"}, "'group_size'"),
        ({**GPTQ, "group_size": 1 << 40}, "'group_size'"),
        ({**GPTQ, "desc_act": "yes"}, "'desc_act'"),
        ({**GPTQ, "checkpoint_format": 2}, "'checkpoint_format'"),
        ({**AWQ, "version": 1}, "'version'"),
        ("gptq", "'quantization_config' is 'gptq'"),
    ],
)
def test_malformed_fields_are_named(quantization, message):
    with pytest.raises(CheckpointError, match=message):
        read(quantization)
