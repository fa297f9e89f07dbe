"""The command as people type it, wrong words included: one clear line, never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from potluck.deploy.cli import app

CLUSTER = Path(sys.executable).with_name("cluster")
TINY_FLEET = "name: small\nnodes:\n  a: {flops: 1 GFLOPS, memory_bandwidth: 1 GB/s, memory: %s}\n"


ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "TERM": "dumb"}


def in_its_own_process(*words):
    """The command as a shell starts it: for what starts a fleet, and to hold `cluster` to it."""
    return subprocess.run(
        [CLUSTER, *map(str, words)], capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["models", "--json"], 0),
        (["plan", "--help"], 0),
        (["plan", "smollm2", "--fleet", "trio"], 0),
        (["plan", "smollm2", "--fleet", "nosuch"], 1),
        (["bogus"], 2),
    ],
)
def test_a_fork_does_what_the_command_does(cluster, words, code):
    """The other tests here see the command through forks."""
    fork, own = cluster(*words), in_its_own_process(*words)
    assert (fork.returncode, fork.stdout, fork.stderr) == (own.returncode, own.stdout, own.stderr)
    assert own.returncode == code


def refused(done):
    """A complaint of one line (usage errors draw a box), and nothing else."""
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    if done.returncode == 1:
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("error: ")
    return done.stderr


@pytest.mark.parametrize(
    "command",
    [[], ["serve"], ["status"], ["run"], ["plan"], ["nodes"], ["profile"], ["models"], ["catalogue"], ["bench"]],
)
def test_every_command_explains_itself(cluster, command):
    done = cluster(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_models_are_listed(cluster):
    listed = json.loads(cluster("models", "--json").stdout)
    assert {"smollm2", "gemma3-270m"} <= {model["name"] for model in listed["models"]}
    assert "smollm2" in cluster("models").stdout


@pytest.mark.parametrize("fleet", ["pair", "trio", "home", "household"])
def test_nodes_of_the_shipped_fleets(cluster, fleet):
    described = json.loads(cluster("nodes", "--fleet", fleet, "--json").stdout)
    assert described["name"] == fleet
    assert all(node in cluster("nodes", "--fleet", fleet).stdout for node in described["nodes"])


def test_a_plan_is_saved_edited_and_given_back(cluster, tiny_model, tmp_path):
    model, saved = tiny_model("llama3", 6), tmp_path / "plan.yaml"
    first = cluster("plan", model, "--fleet", "trio", "--rounds", "2", "--save", saved)
    assert first.returncode == 0
    assert "desktop" in first.stdout
    data = yaml.safe_load(saved.read_text())
    data["stages"] = [{"node": "laptop", "parts": ["embedding", "layers 0-5", "head"]}]
    saved.write_text(yaml.safe_dump({key: data[key] for key in ("model", "dtype", "kv_tokens", "stages")}))
    again = json.loads(cluster("plan", model, "--fleet", "trio", "--plan", saved, "--json").stdout)
    assert again["nodes"]["laptop"]["holds"] == "embedding, layers 0-5, head"
    assert again["nodes"]["desktop"]["holds"] == ""
    data["stages"] = [{"node": "laptop", "parts": ["embedding", "layers 0-4", "head"]}]
    saved.write_text(yaml.safe_dump({key: data[key] for key in ("model", "dtype", "kv_tokens", "stages")}))
    told = refused(cluster("plan", model, "--fleet", "trio", "--plan", saved))
    assert "layer 5 is in no stage; add 'layer 5' to the parts here" in told


def test_run_prints_one_answer(tiny_model, tmp_path, calibrated):
    words = ["run", tiny_model("llama3", 4), "hello", "--local", "--fleet", "pair", "--max-tokens", "5", "--raw"]
    done = in_its_own_process(*words, "--cache", calibrated(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert 1 <= answer["tokens"] <= 5
    assert answer["finish_reason"] in ("length", "stop")


def damaged(path, target, change):
    data = bytearray(path.read_bytes())
    target.write_bytes(change(data))
    return target


def flipped(data):
    for place in range(8, 400, 7):
        data[place] ^= 0x41
    return data


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], flipped], ids=["truncated", "flipped"])
def test_damaged_models(cluster, tiny_gguf, tiny_model, tmp_path, change):
    gguf = damaged(tiny_gguf("llama3", "Q8_0"), tmp_path / "damaged.gguf", change)
    refused(cluster("serve", gguf, "--fleet", "pair", "--local"))
    folder = tiny_model("llama3", 2)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    gguf.unlink()
    damaged(folder / "model.safetensors", tmp_path / "model.safetensors", change)
    refused(cluster("serve", tmp_path, "--fleet", "pair", "--local"))


def test_pickles_are_never_loaded(cluster, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    assert "pickle" in refused(cluster("serve", tmp_path / "model.bin", "--fleet", "pair"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["serve", "nosuch", "--fleet", "pair"], "alias"),
        (["serve", "org/nosuch", "--fleet", "pair"], "offline"),
        (["serve", "/etc/passwd", "--fleet", "pair"], "not a GGUF file"),
        (["plan", "smollm2", "--fleet", "nosuch"], "home, household, pair, trio"),
        (["plan", "smollm2", "--fleet", "trio", "--without", "laptopp"], "laptop"),
        (["plan", "smollm2", "--fleet", "trio", "--context", "9000000"], "--context"),
        (["plan", "smollm2", "--fleet", "trio", "--share", "laptop=a third"], "as in laptop=30%"),
        (["plan", "smollm2", "--fleet", "trio", "--share", "laptop=0%"], "exclude it instead"),
        (["plan", "smollm2", "--fleet", "trio", "--share", "laptopp=30%"], "did you mean 'laptop'?"),
        (["plan", "smollm2", "--fleet", "trio", "--share", "nas=30%", "--share", "nas=40%"], "30% and 40%; choose one"),
        (
            ["plan", "smollm2", "--fleet", "trio", "--share", "laptop=30%", "--without", "laptop"],
            "contradict each other; leave one out",
        ),
        (["plan", "smollm2", "--fleet", "trio", "--plan", "nosuch.yaml"], "nosuch.yaml"),
        (["plan", "smollm2", "--fleet", "trio", "--dtype", "int3"], "float32"),
        (["plan", "smollm2", "--fleet", "trio", "--rounds", "0"], "rounds"),
        (["plan", "smollm2", "--fleet", "trio", "--quantize", "int4"], "is stored in Q4_1"),
        (["plan", "smollm2", "--fleet", "trio", "--quantize", "int4", "--dtype", "float32"], "exclude each other"),
        (["bench", "smollm2", "--dtype", "int3"], "float32"),
        (["bench", "nosuch.gguf"], "no model"),
        (["bench", "smollm2", "--threads", "1000"], "more than twice the processors"),
        (["serve", "smollm2", "--fleet", "pair", "--port", "99999"], "port"),
        (["run", "smollm2", "", "--raw", "--fleet", "pair", "--local"], "empty"),
        (["nodes", "--address", "127.0.0.1:1"], "ray start"),
        (["bogus"], "bogus"),
    ],
)
def test_wrong_words(cluster, words, says):
    assert says in refused(cluster(*words))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes: [", "YAML"),
        (TINY_FLEET.replace("memory:", "memroy:") % "1 GiB", "memory"),
        (TINY_FLEET % "1 GiBB", "GiB"),
        (TINY_FLEET % "90 MiB", "needs"),
        ("just a text", "fleet"),
    ],
)
def test_wrong_fleet_files(cluster, tmp_path, text, says):
    (tmp_path / "fleet.yaml").write_text(text)
    assert says in refused(cluster("plan", "smollm2", "--fleet", tmp_path / "fleet.yaml"))


SMALL_FLEET = """
name: small
nodes:
  a: {flops: 60 GFLOPS, memory_bandwidth: 20 GB/s, memory: 118 MiB, disk: 2 GB/s}
  b: {flops: 60 GFLOPS, memory_bandwidth: 20 GB/s, memory: 80 MiB, disk: 2 GB/s}
links:
  default: {latency: 0.1 ms, bandwidth: 1 Gbit}
"""


def test_a_model_larger_than_all_memory_is_served_and_says_the_same(cluster, tmp_path, calibrated):
    """SmolLM2 takes 93 MiB and 3 of KV; the nodes have 50 and 16 beside what a worker takes."""
    fleet = tmp_path / "small.yaml"
    fleet.write_text(SMALL_FLEET)
    planned = json.loads(cluster("plan", "smollm2", "--fleet", fleet, "--context", "128", "--json").stdout)
    assert "from disk" in cluster("plan", "smollm2", "--fleet", fleet, "--context", "128").stdout
    assert len(planned["plan"]["stages"]) > 4
    words = ["Name three fruits.", "--context", "128", "--max-tokens", "12", "--local", "--cache", calibrated(tmp_path)]
    streamed = in_its_own_process("run", "smollm2", *words, "--fleet", fleet)
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout == in_its_own_process("run", "smollm2", *words, "--fleet", "pair").stdout
    refusal = refused(cluster("plan", "smollm2", "--fleet", fleet, "--context", "128", "--no-streaming"))
    assert "needs" in refusal and "leave out --no-streaming" in refusal
    saved = tmp_path / "plan.yaml"
    cluster("plan", "smollm2", "--fleet", fleet, "--context", "128", "--save", saved)
    for wish, says in (("--no-streaming", "streams layers"), ("--dtype=bfloat16", "the plan says dtype quantized")):
        assert says in refused(cluster("plan", "smollm2", "--fleet", fleet, "--plan", saved, wish))


def test_shard_files_are_shown_and_cleaned(cluster, tiny_model, tmp_path, calibrated):
    model = tiny_model("llama3", 4)
    words = ["hello", "--local", "--fleet", "pair", "--max-tokens", "2", "--raw", "--cache", calibrated(tmp_path)]
    assert in_its_own_process("run", model, *words).returncode == 0
    shards = json.loads(cluster("models", "--cache", tmp_path, "--json").stdout)["shards"]
    assert {one["model"] for one in shards} == {model.name}
    assert sum(one["files"] for one in shards) == 4 + 3
    assert "there are some of" in refused(cluster("models", "--cache", tmp_path, "--clean", "another"))
    assert cluster("models", "--cache", tmp_path, "--clean", model.name).stdout.startswith("7 shard files deleted")
    assert json.loads(cluster("models", "--cache", tmp_path, "--json").stdout)["shards"] == []
    assert not list(tmp_path.rglob("*.shard"))


def test_what_is_no_shard_file_is_shown_and_cleaned_all_the_same(cluster, tiny_model, tmp_path):
    place = tmp_path / "shards" / "0123"
    (place / "folder.shard").mkdir(parents=True)
    (place / "link.shard").symlink_to(tmp_path / "nowhere")
    os.mkfifo(place / "pipe.shard")
    (one,) = json.loads(cluster("models", "--cache", tmp_path, "--json").stdout)["shards"]
    assert (one["model"], one["files"]) == ("(damaged)", 3)
    assert cluster("models", "--cache", tmp_path, "--clean", "all").stdout.startswith("3 shard files deleted")
    assert not place.exists()


def test_fewer_bits_where_there_are_none_is_said(cluster, tiny_model):
    model = tiny_model("llama3", 4)
    assert "add --quantize int4" in refused(cluster("plan", model, "--fleet", "pair", "--dtype", "quantized"))
    narrow = tiny_model("llama3", 2, hidden_size=48, intermediate_size=80, num_attention_heads=3, num_key_value_heads=1)
    assert "rows of a multiple of 32" in refused(cluster("plan", narrow, "--fleet", "pair", "--quantize", "int8"))


def test_bench_measures_what_it_says(cluster, tiny_model, tmp_path):
    words = ["bench", tiny_model("llama3", 4), "--threads", "1", "--rounds", "1", "--cache", tmp_path]
    report = json.loads(in_its_own_process(*words, "--json").stdout)
    assert [(row["test"], row["batch"]) for row in report["figures"]] == [
        *(("pp 128", 1), ("pp 512", 1), ("tg 64", 1), ("tg 64", 8))
    ]
    assert all(row["tokens_per_s"] > 0 and row["bytes_per_token"] > 0 for row in report["figures"])
    assert report["threads"] == 1
    assert "tokens/s" in cluster(*words).stdout


def test_the_options_of_every_command_are_known_here():
    """An option more is a decision, not an accident."""
    found = {
        name: sorted(option for parameter in command.params for option in parameter.opts if option.startswith("--"))
        for name, command in get_command(app).commands.items()
    }
    where = {"--fleet", "--address", "--local", "--threads", "--cache", "--json"}
    model = where | {"--plan", "--dtype", "--rounds", "--context", "--fewest", "--without", "--offline"}
    model |= {"--quantize", "--streaming", "--spread", "--share", "--with"}
    what_if = {"--add", "--remove", "--link", "--prompt", "--batch"}
    serving = {"--host", "--port", "--api-key", "--allowed-host", "--cors-origin", "--kv-tokens", "--max-rows"}
    assert found == {
        "serve": sorted(
            model | serving | {"--goal", "--chat-template", "--step-seconds", "--wire", "--grace", "--remeasure-after"}
        ),
        "status": sorted({"--api-key", "--json"}),
        "run": sorted(model | {"--max-tokens", "--temperature", "--seed", "--raw", "--chat-template"}),
        "plan": sorted(model | {"--goal", "--save", "--kv-tokens", "--html", "--solver"} | what_if),
        "nodes": sorted(where),
        "profile": sorted(where - {"--fleet"}),
        "models": sorted({"--cache", "--json", "--clean"}),
        "catalogue": ["--json"],
        "bench": sorted({"--dtype", "--quantize", "--threads", "--rounds", "--cache", "--offline", "--json"}),
    }
