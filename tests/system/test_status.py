"""`cluster status` and what `cluster serve` says of its predictions, both as commands."""

import json
import os
import subprocess

import pytest


@pytest.fixture(scope="module")
def server(start, tmp_path_factory):
    server = start(tmp_path_factory.mktemp("status"), "--api-key", "open sesame", "--remeasure-after", "0")
    server.listening()
    server.client.headers["Authorization"] = "Bearer open sesame"
    yield server
    server.close()


def status(server, served, *words, key="open sesame"):
    environment = {name: value for name, value in os.environ.items() if name != "POTLUCK_API_KEY"} | {"COLUMNS": "160"}
    command = [served.CLUSTER, "status", str(server.client.base_url), *words, *(["--api-key", key] if key else [])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_predicted_first_then_measured(server, served):
    (predicted,) = [event for event in server.seen if event["event"] == "predicted"]
    assert predicted["prompt"] == 128
    before = json.loads(status(server, served, "--json").stdout)
    assert before["predicted"].items() <= predicted.items()
    assert "nothing is measured yet" in status(server, served).stdout
    for _ in range(3):
        assert server.complete(ignore_eos=True).status_code == 200
    compared = server.until("compared")
    assert compared["time_to_first_token"]["requests"] == compared["time_per_output_token"]["requests"] == 3
    after = json.loads(status(server, served, "--json").stdout)
    assert after["accuracy"]["time_per_output_token"] == compared["time_per_output_token"]
    assert after["accuracy"]["stages"] == compared["stages"]
    assert {node["node"] for node in after["nodes"]} == {"alpha", "beta", "gamma"}
    assert (after["model"], after["epoch"], after["described"]) == (server.model, 1, True)
    page = status(server, served)
    assert page.returncode == 0
    for words in ("epoch 1", "time to first token", "deviation", "gamma", "stage 1 computing", "layer"):
        assert words in page.stdout
    metrics = server.client.get("/metrics").text
    assert f"potluck_measured_time_per_output_token_seconds {compared['time_per_output_token']['measured']}" in metrics
    assert 'potluck_prediction_deviation_ratio{what="time_to_first_token"}' in metrics


@pytest.mark.parametrize(("key", "words"), [("", "wants a key"), ("wrong", "does not take this key")])
def test_a_key_that_does_not_open(server, served, key, words):
    done = status(server, served, key=key)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert words in line and "--api-key" in line and "wrong" not in line
