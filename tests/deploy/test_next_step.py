"""What `cluster plan` says to do next: what is typed then serves the very plan that was shown."""

import json
import shlex
from pathlib import Path

import pytest

import potluck.deploy.serve
from potluck.coordinator.api.schema import ChatBody, CompletionBody
from potluck.coordinator.in_force import plan_for
from potluck.deploy.cli import app
from potluck.deploy.next_step import Asked, Planned, after_plan, first_request
from potluck.planner.plan_file import plan_to_data

WORDS = ["plan", "smollm2", "--fleet", "trio"]


@pytest.fixture
def served(monkeypatch, tmp_path, calibrated):
    """served(words) -> what `cluster serve` would load, prepared as far as it goes before anything is started."""
    cache = calibrated(tmp_path)

    def words_of(words):
        seen = []
        monkeypatch.setattr(potluck.deploy.serve, "serve", lambda prepared, *rest: seen.append(prepared) or 0)
        assert app([*words, "--cache", str(cache)], standalone_mode=False) == 0
        (prepared,) = seen
        serving = prepared.serving
        return plan_for(serving.fleet, prepared.files.spec, serving.goal, serving.plan)

    return words_of


def placement(plan):
    return {name: plan[name] for name in ("model", "dtype", "kv_tokens", "stages", "routes") if name in plan}


def next_commands(said):
    """The commands of a hint, which are one line that can be pasted."""
    (line,) = said.strip().splitlines()
    assert line.startswith("next: ")
    return [shlex.split(command)[1:] for command in line.removeprefix("next: ").split(" && ")]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--solver=proportional", "--spread=all"],
        ["--solver", "exact", "--batch", "8"],
        ["--batch", "40", "--goal", "balanced"],
        ["--prompt", "5000"],
        ["--goal", "throughput"],
        ["--fewest"],
        ["--share", "desktop=30%", "--with", "laptop", "--without", "mini-pc"],
        ["--rounds", "3", "--spread", "all"],
        ["--context", "1024", "--kv-tokens", "3000", "--no-streaming", "--dtype", "float32"],
        ["--solver", "proportional", "--save"],
        ["--fewest", "--batch", "2", "--dtype", "float32", "--save"],
        ["--goal=balanced", "--with", "laptop", "--without=mini-pc", "--rounds", "2", "--spread", "best", "--save"],
    ],
)
def test_what_is_said_to_do_next_serves_the_plan_that_was_shown(cluster, served, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    # In a folder whose name a shell would take apart.
    Path("my plans").mkdir()
    saved = [tmp_path / "my plans" / "one.yaml"] if "--save" in options else []
    done = cluster(*WORDS, *options, *saved)
    assert done.returncode == 0, done.stderr
    shown = json.loads(cluster(*WORDS, *options, *saved, "--json").stdout)["plan"]
    *before, serve = next_commands(done.stderr)
    for command in before:
        # The command under test has a working folder of its own.
        assert cluster(*(tmp_path / word if word == "plan.yaml" else word for word in command)).returncode == 0
    assert placement(plan_to_data(served(serve))) == placement(shown)


def test_of_a_plan_from_a_file_that_file_is_served(cluster, served, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    assert cluster(*WORDS, "--solver", "proportional", "--save", first).returncode == 0
    for words, file in ((["--batch", "4"], first), (["--save", second, "--prompt=300"], second)):
        done = cluster(*WORDS, "--plan", first, *words)
        (serve,) = next_commands(done.stderr)
        assert serve == ["serve", "smollm2", "--fleet", "trio", "--plan", str(file)]
        shown = json.loads(cluster(*WORDS, "--plan", first, "--json").stdout)["plan"]
        assert placement(plan_to_data(served(serve))) == placement(shown)


def test_a_plan_that_cannot_be_served_is_drawn():
    nowhere = Planned(can_serve=False, by_default=True)
    assert after_plan(["m", "--batch", "4"], nowhere) == "cluster plan m --batch 4 --html plan.html"
    drawn = Planned(can_serve=False, by_default=True, drawn=Path("page.html"))
    assert after_plan(["m", "--html", "page.html"], drawn).startswith("open page.html; ")


@pytest.mark.parametrize("model", ["smollm2", 'it\'s "mine"/model$HOME.gguf'])
@pytest.mark.parametrize("chats", [True, False])
@pytest.mark.parametrize("wants_key", [True, False])
def test_the_first_request_can_be_pasted_and_is_answered_the_same_each_time(model, chats, wants_key):
    program, *words = shlex.split(first_request("http://127.0.0.1:8000", Asked(model, chats, wants_key)))
    body = json.loads(words[words.index("-d") + 1])
    assert program == "curl" and body["model"] == model and body["temperature"] == 0
    assert words[1] == f"http://127.0.0.1:8000/v1/{'chat/' if chats else ''}completions"
    assert (ChatBody if chats else CompletionBody).model_validate(body)
    assert ("Authorization: Bearer KEY" in words) == wants_key
