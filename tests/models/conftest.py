"""Tokenizers of the two real models and what transformers makes of the same files."""

import pytest
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potluck.models.tokenizer import load_tokenizer


def _oracle(path):
    """As AutoTokenizer makes it, without reading the model's configuration first: that takes 15 s for Gemma 3."""
    return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    tokenizer = load_tokenizer(smollm2_path)
    yield tokenizer
    tokenizer.close()


@pytest.fixture(scope="session")
def smollm2_oracle(smollm2_path):
    """With the digits that SmolLM2's own tokenizer.json cuts off first; transformers' reader of GGUF does not know."""
    oracle = _oracle(smollm2_path)
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    oracle.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return oracle


@pytest.fixture(scope="session")
def gemma3(gemma3_path):
    tokenizer = load_tokenizer(gemma3_path)
    yield tokenizer
    tokenizer.close()


@pytest.fixture(scope="session")
def gemma3_oracle(gemma3_path):
    return _oracle(gemma3_path)
