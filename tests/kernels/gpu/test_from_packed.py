import pytest
import torch

pytest.importorskip("triton")

from potluck.kernels import packed
from potluck.kernels.gpu import from_packed as module
from potluck.kernels.gpu.from_packed import from_packed, grouped_bytes
from potluck.kernels.gpu.grouped import unpack
from potluck.kernels.gpu.linear import GpuLinear
from potluck.kernels.packed import PackedLinear, PackedMatrix
from potluck.models.encodings import GROUPED, packed_bytes

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")
# Where the halves of a block stand, in bytes, and its columns and bytes.
HALVES = {
    "Q4_0": ((0,), 32, 18),
    "Q4_1": ((0, 2), 32, 20),
    "Q5_0": ((0,), 32, 22),
    "Q5_1": ((0, 2), 32, 24),
    "Q8_0": ((0,), 32, 34),
    "Q4_K": ((0, 2), 256, 144),
    "Q5_K": ((0, 2), 256, 176),
    "Q6_K": ((208,), 256, 210),
    "INT4_G32": ((0, 2), 32, 20),
    "INT4_G128": ((0, 2), 128, 68),
    "INT8_G32": ((0, 2), 32, 36),
    "INT8_G128": ((0, 2), 128, 132),
}


def matrix(encoding, rows=35, columns=512):
    """Random blocks, with scales of about 1e-2 and whole zero points."""
    halves, block, size = HALVES[encoding]
    blocks = torch.randint(0, 256, (rows, columns // block, size), dtype=torch.uint8, device="cpu")
    for number, offset in enumerate(halves):
        values = torch.rand(blocks.shape[:2], device="cpu") * 1e-2
        if encoding.startswith("INT") and number:
            values = torch.randint(0, 16, blocks.shape[:2], device="cpu")
        blocks[..., offset : offset + 2] = values.half().unsqueeze(-1).view(torch.uint8)
    with torch.device("cpu"):
        return PackedMatrix.pack(encoding, blocks.view(rows, -1), columns)


@pytest.mark.parametrize("encoding", HALVES)
def test_weights_are_those_of_the_packed_matrix(device, encoding, monkeypatch):
    stored = matrix(encoding)
    monkeypatch.setattr(module, "_AT_ONCE", 20000)
    found = from_packed(encoding, (35, 512), stored.data.to(device))
    with torch.device("cpu"):
        wanted = stored.select(torch.arange(35))
    # q - offset there, scale * q + minimum here: float32 rounds the second once more.
    size = wanted.abs().max().item()
    torch.testing.assert_close(unpack(found).cpu(), wanted, rtol=0, atol=1e-6 * size)
    torch.testing.assert_close(found.select(torch.tensor([34, 0])).cpu(), wanted[[34, 0]], rtol=0, atol=1e-6 * size)
    # What the worker and the planner reckon with.
    assert found.nbytes == grouped_bytes(encoding, (35, 512)) == packed_bytes(encoding, (35, 512), on_gpu=True)


def test_every_format_has_its_bytes_on_a_gpu():
    assert GROUPED.keys() == HALVES.keys()


@pytest.mark.parametrize("encoding", ["Q4_0", "Q6_K", "INT4_G128"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_of_several_matrices(device, rows, encoding):
    stored, bias, order = [matrix(encoding), matrix(encoding, 16)], torch.randn(51), torch.randperm(512)
    x = torch.randn(rows, 512)
    product = GpuLinear([from_packed(encoding, (m.rows, 512), m.data.to(device)) for m in stored], bias, [None, order])
    with torch.device("cpu"):
        wanted = PackedLinear(stored, bias.cpu(), exact=True, orders=[None, order.cpu()])(x.cpu())
    # On processors that multiply bfloat16 faster, the packed product rounds activations to it.
    size = wanted.abs().max().item()
    torch.testing.assert_close(product(x).cpu(), wanted, rtol=0, atol=1e-2 * size)


def test_a_scale_that_is_not_finite_is_refused(device):
    stored = matrix("Q4_0")
    stored.data[256:258] = torch.tensor([0x00, 0x7C], dtype=torch.uint8, device="cpu")
    with pytest.raises(ValueError, match="no finite float16"):
        from_packed("Q4_0", (35, 512), stored.data.to(device))
