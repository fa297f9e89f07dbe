"""A real Ray cluster of several nodes on this machine: one worker per node, placed by Ray."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from potluck.coordinator.deployment import Deployment, Serving
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import FabricError, WorkerLaunch
from potluck.coordinator.metrics import Metrics
from potluck.coordinator.ray_fabric import RayFabric
from potluck.deploy.progress import JsonProgress
from potluck.deploy.settings import quiet_ray
from potluck.planner.goal import Goal

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


class Quiet(JsonProgress):
    def say(self, event, **facts):
        pass


@pytest.fixture
def address():
    """The address of a cluster of three raylets."""
    quiet_ray()
    program = [sys.executable, str(Path(__file__).with_name("raylets.py"))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as raylets:
        yield raylets.stdout.readline().strip()
        raylets.stdin.close()
        raylets.wait(30)


def test_text_through_three_raylets(address, tools, oracles, tiny_model, tmp_path):
    path = tiny_model("qwen3", 6)
    files = tools.files_of(path)
    template = WorkerLaunch("", str(tmp_path), threads=1, log=str(tmp_path / "log"))
    fabric = RayFabric(address, template=template)
    engine = ServingEngine("tiny", 512, Metrics())
    deployment = Deployment(fabric, engine, files, Serving(Goal(kv_tokens=2048, solver="proportional"), 512))
    try:
        deployment.start(Quiet())
        assert len(fabric.nodes) == 3
        assert len({node.identity for node in fabric.nodes}) == 3
        assert set(deployment.plan.nodes) == {node.name for node in fabric.nodes}
        (text,) = tools.texts(engine, [tools.ask(list(range(4, 20)), 32)])
        assert oracles.tiny(path).agrees(list(range(4, 20)), text)
        assert fabric.exits() == {}
        workers = [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in process.info["cmdline"]]
        assert len(workers) == 3
    finally:
        deployment.stop()
    assert psutil.wait_procs(workers, 5)[1] == []


def test_an_address_nobody_answers_is_said_in_one_line(tmp_path):
    quiet_ray()
    fabric = RayFabric("127.0.0.1:1", template=WorkerLaunch("", str(tmp_path)))
    with pytest.raises(FabricError, match=r"Ray cannot be reached at 127\.0\.0\.1:1") as failure:
        fabric.start("token")
    assert "\n" not in str(failure.value)
    fabric.stop()
