"""How fast a core is; that the figures are used, tests/deploy/test_emulate.py says."""

import pytest
import torch

from potluck.kernels import packed
from potluck.worker import core_speed
from potluck.worker.device import CPU
from potluck.worker.sample_products import stored_bytes

PACKED = ["Q4_0", "INT8_G128", "Q4_0 unrounded"] if packed.available() else []


@pytest.mark.parametrize("name", ["F32", "BF16", "F16", *PACKED])
def test_a_core_reads_more_than_caches_hold_and_multiplies_many_rows_by_one_matrix(monkeypatch, name):
    products, exact = [], []
    made = core_speed.sample_products

    def watched(*given, **options):
        exact.append(options["exact"])
        products.extend(made(*given, **options))
        return products

    def second(operation):
        out = operation()
        assert all(bool(torch.isfinite(one).all()) for one in (out if isinstance(out, list) else [out]))
        return 1.0

    monkeypatch.setattr(core_speed, "sample_products", watched)
    monkeypatch.setattr(core_speed, "_best", second)
    flops, bandwidth = core_speed.measure(name)
    nbytes = stored_bytes(name.split()[0], (8192, 2048), CPU)
    assert flops == 2 * 8192 * 2048 * 128
    assert bandwidth == pytest.approx(nbytes * len(products)) and bandwidth >= 96 << 20
    assert exact == [name.endswith("unrounded")]
