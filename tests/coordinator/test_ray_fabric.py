"""Emulated nodes on a Ray that is started here: their workers serve, their deaths are seen, nothing is left behind."""

import os
from functools import partial

import psutil
import pytest

from potluck.coordinator.ray_fabric import RayFabric

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


async def test_emulated_nodes_on_a_ray_of_our_own(home, home_oracle, tiny_model, tmp_path):
    one = home.Home(tiny_model("qwen2", 4), tmp_path, nodes=2, fabric=partial(RayFabric, None))
    fabric = one.fabric
    before = set(psutil.Process(os.getpid()).children(recursive=True))
    try:
        one.start()
        started = set(psutil.Process(os.getpid()).children(recursive=True)) - before
        assert set(one.processes) == {"n0", "n1"}
        (text,) = await one.texts(home.ask([4, 5, 6], 20))
        assert home_oracle(one.folder).agrees([4, 5, 6], text)
        assert fabric.exits() == {}
        assert fabric.phases.keys() == {"ray", "workers"}
        one.kill("n1")
        one.diary.until("serving", 2)
        assert fabric.exits() == {"n1": -9}
        assert (await one.texts(home.ask([4, 5, 6], 20))) == [text]
    finally:
        one.stop()
    assert psutil.wait_procs([*started, *one.processes.values()], 10)[1] == []
    one.stop()
