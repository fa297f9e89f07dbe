"""What this machine measured is kept, for as long as it is this machine."""

import json

import pytest

from potluck.deploy import measured
from potluck.deploy.fleet_files import read_fleet
from potluck.deploy.machine import hardware_fingerprint
from potluck.deploy.prepare import Where


@pytest.fixture
def measurements(monkeypatch):
    """How often was measured; each time another fleet."""
    fleets = [read_fleet(name) for name in ("pair", "trio", "home")]
    done = []
    monkeypatch.setattr(measured, "_measure", lambda where, dtype: done.append(dtype) or fleets[len(done) - 1])
    return done


def fleet(cache, dtype="float32", address=None, threads=0, anew=False):
    where = Where(None, address, True, cache, threads=threads)
    return measured.measured_fleet(where, dtype, anew).fleet.name


def test_it_is_measured_once_and_anew_when_asked(measurements, tmp_path):
    assert [fleet(tmp_path), fleet(tmp_path), fleet(tmp_path, anew=True), fleet(tmp_path)] == ["pair"] * 2 + [
        "trio"
    ] * 2
    assert len(measurements) == 2
    assert 0 < measured.measured_fleet(Where(None, None, True, tmp_path), "float32").age < 60
    assert list(tmp_path.iterdir()) == [tmp_path / "measured.json"]


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"threads": 1}, {"address": "10.0.0.1:6379"}])
def test_what_would_measure_something_else_is_not_told_what_is_kept(measurements, tmp_path, other):
    assert fleet(tmp_path) == "pair"
    assert fleet(tmp_path, **other) == "trio"


def test_of_a_cluster_nothing_is_kept(measurements, tmp_path):
    fleet(tmp_path, address="10.0.0.1:6379")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "no JSON",
        lambda kept: "[]",
        lambda kept: json.dumps({**kept, "fingerprint": "another machine"}),
        lambda kept: json.dumps({**kept, "measured_at": "today"}),
        lambda kept: json.dumps({**kept, "fleet": {"nodes": {}}}),
        lambda kept: json.dumps({"fingerprint": kept["fingerprint"]}),
    ],
)
def test_other_hardware_or_a_damaged_file_is_measured_again(measurements, tmp_path, damage):
    fleet(tmp_path)
    file = tmp_path / "measured.json"
    file.write_text(damage(json.loads(file.read_text())))
    assert fleet(tmp_path) == "trio"


def test_the_fingerprint_is_one_line_and_stays():
    assert hardware_fingerprint() == hardware_fingerprint()
    assert "torch" in hardware_fingerprint() and "\n" not in hardware_fingerprint()
