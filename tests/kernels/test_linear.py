import pytest
import torch

from potluck.kernels.linear import Linear

CPU = torch.device("cpu")


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 3), (97, 64), (960, 576)])
@pytest.mark.parametrize("rows", [1, 2, 8, 33])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_linear(outputs, inputs, rows, bias, pack, dtype, tolerance):
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, inputs).to(dtype), torch.randn(rows, inputs).to(dtype)
    added = torch.randn(outputs).to(dtype) if bias else None
    found = Linear(weight, added, pack)(x)
    wanted = x.double() @ weight.double().T + (added.double() if bias else 0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * inputs**0.5)


def test_float32_is_the_same_every_time():
    torch.manual_seed(0)
    linear, x = Linear(torch.randn(960, 576)), torch.randn(8, 576)
    first = linear(x)
    assert all(torch.equal(linear(x), first) for _ in range(5))


def test_an_unpacked_weight_is_shared_not_copied():
    weight = torch.randn(4, 3)
    linear = Linear(weight, pack=False)
    weight.zero_()
    assert not linear(torch.ones(1, 3)).any()
