"""Kernels run on the GPU if there is one, else on CPU tensors through Triton's interpreter (see tests/conftest.py)."""

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def device():
    """What the kernels under test run on; tensors that tests make lie there."""
    name = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    with torch.device(name):
        yield torch.device(name)
