import math

import pytest
import torch

from potluck.kernels.rotary import RotaryTable, rotate

CPU = torch.device("cpu")


def naive(x, positions, frequencies, factor):
    """Each pair (i, i + E/2) turned as a complex number."""
    half = x.shape[-1] // 2
    numbers = torch.complex(x.double()[..., :half], x.double()[..., half:])
    for row, position in enumerate(positions):
        for pair, frequency in enumerate(frequencies):
            angle = position * frequency
            numbers[row, :, pair] *= complex(math.cos(angle), math.sin(angle)) * factor
    return torch.cat((numbers.real, numbers.imag), -1)


@pytest.mark.parametrize("width", [2, 6, 64])
@pytest.mark.parametrize("positions", [[0], [5, 0, 300], [511, 512, 513, 2000]])
def test_rotate(width, positions):
    torch.manual_seed(0)
    frequencies = [100.0 ** (-pair / width) for pair in range(width // 2)]
    table = RotaryTable(frequencies, 1.3, CPU)
    x = torch.randn(len(positions), 5, width)
    found = rotate(x, *table.rows(torch.tensor(positions), max(positions) + 1))
    torch.testing.assert_close(found.double(), naive(x, positions, frequencies, 1.3), rtol=0, atol=2e-3)


def test_bfloat16_heads_turn_in_float32():
    table = RotaryTable([1.0, 0.1], 1.0, CPU)
    x = torch.randn(2, 9, 4).bfloat16()[:, 2:7]
    found = rotate(x, *table.rows(torch.tensor([3, 40]), 41))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), naive(x, [3, 40], [1.0, 0.1], 1.0), rtol=0, atol=1e-5)


def test_a_grown_table_says_the_same():
    table = RotaryTable([1.0, 0.01], 1.0, CPU)
    before = [rows.clone() for rows in table.rows(torch.tensor([0, 400]), 401)]
    table.rows(torch.tensor([5000]), 5001)
    after = table.rows(torch.tensor([0, 400]), 401)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
