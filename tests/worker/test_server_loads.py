"""Assignments as a stranger might make them: each is refused by name or loaded, and never ends in a Python error."""

import shutil

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from potluck.proto import cluster_pb2 as pb

Code = grpc.StatusCode
WINDOWS = st.lists(
    st.builds(
        pb.Window,
        stage=st.integers(0, 3) | st.integers(0, 2**32 - 1),
        embedding=st.booleans(),
        first_layer=st.integers(0, 5) | st.integers(0, 2**32 - 1),
        end_layer=st.integers(0, 5) | st.integers(0, 2**32 - 1),
        head=st.booleans(),
        next_nodes=st.lists(st.sampled_from(["", "a", "b", "x" * 300]), max_size=3),
        next_wants_sampled=st.booleans(),
    ),
    max_size=3,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "protocol": st.integers(0, 2**32 - 1),
        "epoch": st.integers(2**63, 2**64 - 1) | st.just(0),
        "spec": st.binary(max_size=40),
        "checkpoint": st.sampled_from(["", "/", "/dev/zero", "/dev/null", "x" * 5000, "\0", "../.."]),
        "fingerprint": st.sampled_from(["", "../../etc/passwd", "g" * 64, "0" * 64]),
        "dtype": st.sampled_from(["", "int8", "bfloat16", "float32\n"]),
        "windows": WINDOWS,
        "kv_blocks": st.sampled_from([0, 2**31, 2**32 - 1]),
        "block_size": st.sampled_from([0, 2000, 2**32 - 1]),
        "max_rows": st.sampled_from([0, 5000, 2**32 - 1]),
    },
).filter(bool)
FINE = {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES)
def test_malformed_assignments(two_workers, served, epochs, changes):
    worker = two_workers[1]
    assignment = served.whole(next(epochs), worker)
    for name, value in changes.items():
        assignment.ClearField(name)
        getattr(assignment, name).extend(value) if name == "windows" else setattr(assignment, name, value)
    try:
        worker.load(assignment)
    except grpc.RpcError as error:
        assert error.code() in FINE, error
        assert "\n" not in error.details()
    else:
        worker.release(assignment.epoch)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_malformed_model_specs(two_workers, served, epochs, data):
    worker = two_workers[1]
    assignment = served.whole(next(epochs), worker)
    spec = msgpack.decode(assignment.spec)
    target = data.draw(st.sampled_from([spec, spec["layers"][0], spec["layers"][0]["rope"]]))
    field = data.draw(st.sampled_from(sorted(target)))
    target[field] = data.draw(
        st.sampled_from([0, 1, -1, 7, 2**31, 2**62, 1.5, float("nan"), "", "x", None, True, [], {}])
    )
    assignment.spec = msgpack.encode(spec)
    try:
        worker.load(assignment)
    except grpc.RpcError as error:
        assert error.code() in FINE, (field, target[field], error)
    else:
        worker.release(assignment.epoch)


def test_what_a_load_refuses(two_workers, processes, served, epochs, tmp_path):
    worker = two_workers[1]
    shutil.rmtree(worker.log.parent / worker.name / "shards", ignore_errors=True)
    cases = {
        "no file and no source": (served.whole(next(epochs), worker, checkpoint_allowed=False), "cannot fetch"),
        "another model's fingerprint": (served.whole(next(epochs), worker, fingerprint=""), None),
    }
    cases["another model's fingerprint"][0].fingerprint = "0" * 64
    for assignment, words in cases.values():
        code, detail = processes.refusal(lambda assignment=assignment: worker.load(assignment))
        assert code is Code.FAILED_PRECONDITION, detail
        assert words is None or words in detail
