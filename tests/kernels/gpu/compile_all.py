"""Compiles what every launch would run, for a GPU that need not be there; prints a line of JSON for each.

Operands lie on torch's meta device, which has shapes and types but no numbers. Started by test_compiles.py in a process
of its own, because Triton decides at import whether it interprets.
"""

import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from potluck.kernels.attention_inputs import HeadNorm
from potluck.kernels.gpu.attention import paged_attention
from potluck.kernels.gpu.attention_plan import AttentionPlan, Tiles
from potluck.kernels.gpu.gated import gated
from potluck.kernels.gpu.grouped import GroupedMatrix
from potluck.kernels.gpu.quantized import multiply
from potluck.kernels.gpu.rms_norm import add_rms_norm
from potluck.kernels.gpu.rotary import place_qkv, rotate

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def compile_instead(kernel, *args, grid, warmup=False, **kwargs):
    """In place of a launch."""
    given = dict(zip([param.name for param in kernel.params], args, strict=False))
    options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
    given |= kwargs
    signature, constants, hints = {}, {}, {}
    for i, param in enumerate(kernel.params):
        value = given[param.name]
        if param.is_constexpr:
            signature[param.name], constants[i,] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[param.name] = TYPES[value.dtype]
            hints[i,] = [["tt.divisibility", 16]]
        else:
            signature[param.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0:
                hints[i,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, hints)
    built = triton.compile(source, target=GPUTarget("cuda", 86, 32), options=options)
    print(json.dumps({"kernel": kernel.__name__, "shared": built.metadata.shared, "dots": "mma" in built.asm["ptx"]}))


def tensor(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def small(dtype):
    """Everything but products and attention."""
    add_rms_norm(tensor(3, 4096), tensor(3, 4096, dtype=dtype), tensor(4096), 1e-6, dtype)
    gated(tensor(3, 8192, dtype=dtype), "gelu_tanh")
    rotary, norm = (tensor(3, 1, 128), tensor(3, 1, 128)), HeadNorm(tensor(20, 128), 1e-6)
    rotate(tensor(3, 20, 128, dtype=dtype), rotary, norm)
    pool = tensor(9, 16, 2, 4, 128, dtype=dtype)
    place_qkv(tensor(3, 24, 128, dtype=dtype), rotary, pool, tensor(3, dtype=torch.int64), norm)


def product(rows, bits, group, dtype, scales=torch.float16):
    codes = tensor(512, 16, group * bits // 8, dtype=torch.uint8)
    scale = tensor(512, 16, dtype=scales)
    multiply(tensor(rows, 16 * group, dtype=dtype), GroupedMatrix(codes, scale, scale, bits, group), splits=2)


def attention(rows, width, dtype, chunk):
    numbers = tensor(rows, dtype=torch.int32)
    tiles = Tiles(tensor(1, 3, dtype=torch.int32), chunk // 4 if chunk else 1)
    parts = (None, tiles) if chunk else (tiles, None)
    plan = AttentionPlan(numbers, numbers, tensor(1, 8, dtype=torch.int32), *parts, 99)
    pool = tensor(9, 16, 2, 2, width, dtype=dtype)
    paged_attention(tensor(rows, 8, width, dtype=dtype), pool, plan, 1.0, splits=1 if chunk else 128)


def main():
    JITFunction.run = compile_instead
    for dtype, chunk in ((torch.bfloat16, 64), (torch.float32, 32)):
        small(dtype)
        for rows in (1, 5, 99):
            product(rows, 4, 32, dtype)
        for width in (128, 256):
            attention(1, width, dtype, None)
            attention(99, width, dtype, chunk)
    product(1, 8, 32, torch.bfloat16)
    product(99, 8, 128, torch.bfloat16)
    for rows in (1, 99):
        product(rows, 8, 16, torch.float32, torch.float32)
        product(rows, 4, 32, torch.float32, torch.float32)


if __name__ == "__main__":
    sys.exit(main())
