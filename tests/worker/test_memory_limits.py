"""Plans that fill the memory which a worker in a control group measured: they load, again and again."""

import contextlib
from dataclasses import replace

import pytest

from potluck.coordinator.assignments import Loading, assignments
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.memory import node_bytes
from potluck.planner.offers import Request
from potluck.planner.solve import solve
from potluck.proto import cluster_pb2 as pb

pytestmark = pytest.mark.root

LIMIT, LAYERS = 400 << 20, 14
KV_TOKENS = (256, 6000, 2000)  # so that the layers which fill the node are never as many


@pytest.fixture
def launch(limited_launch):
    with contextlib.ExitStack() as held:
        try:
            launch = held.enter_context(limited_launch("brim", LIMIT))
        except OSError as error:
            pytest.skip(f"no memory control group can be made here ({error})")
        yield launch


def brim_full(spec, told, kv_tokens):
    """The planner's choice over a quick node of so many bytes and a slow one that has room for everything."""
    quick, slow = Device("cpu", 1e12, 1e11, told), Device("cpu", 1e11, 1e10, 16 << 30)
    fleet = Fleet((Node("a", (quick,)), Node("b", (slow,))), "a", Link(1e-4, 1e9))
    goal = Goal(dtype="bfloat16", kv_tokens=kv_tokens, chunk=256, grouping=False)
    plan = solve(fleet, spec, goal)
    assert 0 <= told - node_bytes(plan, spec)["a"].total < Request(spec, goal).layer_bytes
    return plan


def load(model, workers, plan, epoch):
    addresses = {one.name: one.address for one in workers}
    ports = {one.name: one.data_port for one in workers}
    given = (str(model.path), model.fingerprint, addresses, ports, frozenset(addresses), list(addresses), 256)
    shares = assignments(plan, Loading(epoch, model.spec, *given))
    for worker in workers:
        assert worker.load(shares[worker.name])[-1].ready


def test_in_the_same_worker_no_plan_is_refused_and_nobody_is_killed(processes, launch, smollm2_path, tmp_path):
    model, held = processes.Model(smollm2_path), set()
    model.spec = replace(model.spec, layers=model.spec.layers[:LAYERS])
    limited, other = processes.Worker("a", tmp_path, launch=launch), processes.Worker("b", tmp_path)
    with processes.running(limited, other) as workers:
        told = limited.stub.Probe(pb.ProbeRequest(dtype="bfloat16"), timeout=60).memory_free
        assert told < LIMIT
        before = limited.status().anonymous_bytes
        for epoch, kv_tokens in enumerate(KV_TOKENS, 1):
            plan = brim_full(model.spec, told, kv_tokens)
            held.add(sum(len(stage.layers) for stage in plan.routes[0].stages if stage.nodes == ("a",)))
            load(model, workers, plan, epoch)
            ring = sorted(workers, key=lambda worker: plan.nodes.index(worker.name))
            with processes.client(epoch, *ring) as client:
                assert len(client.generate([5, 9, 17, 33] * 60, 4)) == 4
            for worker in workers:
                worker.release(epoch)
        assert limited.status().anonymous_bytes < before + (24 << 20)
    assert len(held) == len(KV_TOKENS)
