"""`cluster plan` before anything is downloaded or bought, and `cluster catalogue`: as people type them."""

import json
import re

import pytest

from potluck.deploy.tables import figure_text, seconds_text, tokens_text
from potluck.planner.yaml_text import read_yaml

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


def refused(done):
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def planned(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_is_planned_for_from_its_configuration_alone(cluster):
    report = planned(cluster("plan", LLAMA, "--quantize", "int4", "--fleet", "home", "--json"))
    assert report["model"]["name"] == LLAMA and report["model"]["layers"] == 80
    assert report["model"]["parameters"] == pytest.approx(70.55e9, rel=0.001)
    assert "ships with Potluck" in report["model"]["origin"]


def test_the_answer_explains_itself(cluster):
    shown = cluster("plan", "Qwen/Qwen2.5-14B-Instruct", "--fleet", "trio")
    for words in ("First token of a prompt of 128 tokens", "waiting for disks", "What takes longest: disk of"):
        assert words in shown.stdout
    assert shown.stderr == "next: cluster plan Qwen/Qwen2.5-14B-Instruct --fleet trio --html plan.html\n"
    assert (
        cluster("plan", "smollm2", "--fleet", "trio").stderr
        == "next: cluster serve smollm2 --fleet trio --spread best\n"
    )


def test_it_says_who_was_left_out_and_what_the_next_best_would_cost(cluster):
    words = ["plan", "Qwen/Qwen3-14B", "--quantize", "int4", "--fleet", "home"]
    shown = cluster(*words).stdout
    assert "left out: a layer takes" in shown and "Next best: a " in shown and "proved to be the best" in shown
    report = planned(cluster(*words, "--json"))
    assert report["plan"]["alternatives"][0]["seconds"] >= report["plan"]["proof"]["seconds"]
    together = planned(cluster(*words, "--batch", "4", "--json"))["predicted"]
    assert together["batch"] == 4 and together["tokens_per_second"] > report["predicted"]["tokens_per_second"]
    everybody = planned(cluster(*words, "--spread", "all", "--json"))
    assert all(node["holds"] for node in everybody["nodes"].values())
    by_speed = planned(cluster(*words, "--solver", "proportional", "--json"))
    assert by_speed["predicted"]["time_per_token"] >= report["predicted"]["time_per_token"]


def test_a_node_may_be_burdened_less(cluster):
    words = ["plan", "smollm2", "--fleet", "trio", "--spread", "all", "--json"]
    free, spared = planned(cluster(*words)), planned(cluster(*words, "--share", "desktop=10%"))
    assert spared["nodes"]["desktop"]["weight_bytes"] < free["nodes"]["desktop"]["weight_bytes"]
    assert spared["predicted"]["time_per_token"] >= free["predicted"]["time_per_token"]


def test_a_configuration_on_this_machine_comes_first(cluster, tmp_path, tiny_model):
    folder = tiny_model("llama3", 4)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    report = planned(cluster("plan", tmp_path, "--fleet", "pair", "--json"))
    assert (report["model"]["origin"], report["model"]["layers"]) == (str(tmp_path), 4)


def test_json_has_these_names(cluster):
    """Programs read them: a name that goes, or means something else, breaks them."""
    report = planned(cluster("plan", "smollm2", "--fleet", "trio", "--spread", "all", "--json"))
    assert set(report) == {
        "fleet",
        "engine",
        "plan",
        "nodes",
        "goal",
        "compared",
        "predicted",
        "model",
        "fleet_file",
        "token",
    }
    assert set(report["compared"]) == {"by", "chosen", "bound", "others"}
    assert set(report["model"]) == {"name", "origin", "parameters", "layers"}
    assert set(report["nodes"]) == {"desktop", "laptop", "mini-pc"}
    assert set(report["nodes"]["desktop"]) == {
        *("holds", "device", "weight_bytes", "streamed_bytes", "kv_bytes", "needed_bytes", "memory", "why")
    }
    assert set(report["predicted"]) == {
        *("prompt", "context", "batch", "time_to_first_token", "time_per_token", "tokens_per_second"),
        *("seconds_by_work", "bottleneck"),
    }
    assert {frozenset(span) for span in report["token"]} == {
        frozenset({"work", "node", "stage", "start", "seconds"}),
        frozenset({"work", "node", "to", "stage", "start", "seconds"}),
    }


def test_the_fleet_that_was_planned_for_can_be_written_down(cluster, tmp_path):
    words = ["plan", "Qwen/Qwen3-8B", "--quantize", "int4", "--json"]
    first = planned(cluster(*words, "--fleet", "home", "--add", "rtx3060-12gb=den", "--remove", "nas", "--link", "1g"))
    (tmp_path / "fleet.yaml").write_text(json.dumps(first["fleet_file"]))
    again = planned(cluster(*words, "--fleet", tmp_path / "fleet.yaml"))
    assert {**again, "model": first["model"]} == first


def test_what_if(cluster):
    def speed(*words):
        report = planned(cluster("plan", "Qwen/Qwen3-14B", "--quantize", "int4", "--fleet", "home", "--json", *words))
        return set(report["nodes"]), report["predicted"]["time_per_token"], report["predicted"]["time_to_first_token"]

    nodes, each, first = speed()
    without_mac, slower, _ = speed("--remove", "mac-mini")
    assert without_mac == nodes - {"mac-mini"} and slower > each
    assert speed("--link", "thunderbolt")[1] < each
    assert speed("--link", "gaming-mac-mini=10g")[1] <= each
    assert speed("--add", "rtx4090-24gb")[0] == nodes | {"rtx4090-24gb"}
    _, later, longer = speed("--prompt", "4000")
    assert later > each and longer > 5 * first


def test_one_machine_of_the_catalogue_is_a_fleet(cluster):
    report = planned(cluster("plan", "Qwen/Qwen3-8B", "--quantize", "int4", "--fleet", "m4-pro-24gb", "--json"))
    assert set(report["nodes"]) == {"m4-pro-24gb"}
    assert report["predicted"]["seconds_by_work"].keys() == {"memory", "software"}


def test_the_page_is_written(cluster, tmp_path):
    drawn = tmp_path / "plan.html"
    done = cluster("plan", "smollm2", "--fleet", "trio", "--add", "raspberry-pi5-8gb", "--html", drawn)
    assert done.returncode == 0 and f"next: open {drawn}" in done.stderr
    assert "raspberry-pi5-8gb" in drawn.read_text("utf-8")


@pytest.mark.parametrize("option", ["--html", "--save"])
def test_a_path_that_cannot_be_written_is_told_before_anything_is_shown(cluster, tmp_path, option):
    for path, says in ((tmp_path / "no" / "file", f"there is no folder {tmp_path / 'no'}"), (tmp_path, "a folder")):
        done = cluster("plan", "smollm2", "--fleet", "trio", option, path)
        assert says in refused(done) and option in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--add", "rtx3060"], "--add rtx3060: the catalogue has no machine 'rtx3060'; there is rtx3060-12gb"),
        (["--remove", "laptopp"], "did you mean 'laptop'?"),
        (["--link", "wfi"], "did you mean 'wifi'?"),
        (["--link", "desktop-nas=1g"], "there is: desktop, laptop, mini-pc"),
        (["--prompt", "9000"], "--prompt 9000 leaves no room"),
        *(
            (
                ["--remove", "desktop", option, f"desktop{share}"],
                f"--remove desktop takes away the node that {option} desktop",
            )
            for option, share in (("--without", ""), ("--with", ""), ("--share", "=30%"))
        ),
        (["--with", "laptop", "--without", "laptop"], "--with laptop and --without laptop contradict each other"),
        (["--share", "laptop=9%", "--without", "laptop"], "--share laptop and --without laptop contradict"),
        (
            ["--add", "m1-8gb=x", "--remove", "x"],
            "--remove x would take away what --add m1-8gb=x brings; leave both out",
        ),
        (["--add", "m1-8gb", "--remove", "m1-8gb"], "--remove m1-8gb would take away what --add m1-8gb brings"),
        (["--remove", "laptop", "--remove", "laptop"], "--remove laptop is given twice"),
        (
            ["--link", "desktop-mini-pc=1g", "--remove", "mini-pc"],
            "--remove mini-pc takes this node away; leave one",
        ),
        (
            [word for name in ("desktop", "laptop", "mini-pc") for word in ("--without", name)],
            "model 'smollm2': every node is excluded (--without); leave at least one in",
        ),
        (["--with", "laptop", "--share", "laptop=1%"], "but its 4.0 GiB (of which 1%) hold no layer"),
    ],
)
def test_wrong_what_ifs(cluster, words, says):
    told = refused(cluster("plan", "smollm2", "--fleet", "trio", *words))
    assert says in told and ("every node" not in told or told.endswith(says))


def test_a_node_may_be_replaced_by_another_of_its_name(cluster):
    words = ["plan", "smollm2", "--fleet", "trio", "--remove", "laptop", "--add", "m1-8gb=laptop", "--with", "laptop"]
    report = planned(cluster(*words, "--link", "laptop-desktop=10g", "--json"))
    assert report["nodes"]["laptop"]["device"] != "cpu" and "layer" in report["nodes"]["laptop"]["holds"]


def test_shares_that_leave_too_little_are_what_is_to_be_changed(cluster):
    shares = [f"--share={name}=1%" for name in ("desktop", "laptop", "mini-pc")]
    told = refused(cluster("plan", "smollm2", "--fleet", "trio", "--no-streaming", *shares))
    assert "desktop 8.0 GiB (of which 1%)" in told and told.endswith("enough is: leave out --share")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "nodes:\n  a:\n    catalogue: rtx3060\n",
            "line 3: node 'a': catalogue: the catalogue has no machine 'rtx3060'",
        ),
        (
            "nodes:\n  a: {catalogue: m1-8gb}\nlinks:\n  default: wlan\n",
            "line 4: link 'default': there is no kind of link",
        ),
        ("nodes:\n  a:\n    catalogue: m1-8gb\n    memory: 8 GBs\n", "line 4: node 'a': memory: '8 GBs'"),
    ],
)
def test_wrong_fleet_files_are_told_with_the_line(cluster, tmp_path, text, says):
    (tmp_path / "fleet.yaml").write_text(text)
    assert says in refused(cluster("plan", "smollm2", "--fleet", tmp_path / "fleet.yaml"))


def test_a_model_that_is_too_large_says_what_is_missing_and_what_is_enough(cluster):
    said = refused(cluster("plan", LLAMA, "--fleet", "trio", "--kv-tokens", "12288", "--no-streaming"))
    assert "GiB are missing; enough is: leave out --no-streaming, at " in said and said.endswith(" s per token")


def test_what_is_aimed_at_is_said_and_several_routes_are_shown(cluster, tmp_path):
    words, saved = ["plan", "smollm2", "--fleet", "trio", "--goal", "throughput"], tmp_path / "plan.yaml"
    shown = cluster(*words, "--save", str(saved), "--html", str(tmp_path / "plan.html"))
    assert "Goal: throughput, most tokens per second of many requests: " in shown.stdout
    assert "3 routes side by side" in " ".join(shown.stdout.split()) and "route 2: " in shown.stdout
    assert shown.stderr == f"next: cluster serve smollm2 --fleet trio --plan {saved}\n"
    report = planned(cluster(*words, "--json"))
    assert report["goal"] == "throughput" and len(report["plan"]["routes"]) == 3
    alone = planned(cluster("plan", "smollm2", "--fleet", "trio", "--json"))
    assert report["predicted"]["tokens_per_second"] > alone["predicted"]["tokens_per_second"]
    given = ["plan", "smollm2", "--fleet", "trio", "--plan", str(saved)]
    one_user = " ".join(cluster(*given).stdout.split())
    assert re.search(
        r"one user: [0-9.]+ ms\. As many requests as keep all busy get .* over 3 routes side by side", one_user
    )
    again = planned(cluster(*given, "--json"))
    assert again["predicted"]["tokens_per_second"] == report["predicted"]["tokens_per_second"]
    assert "no node 'labtop'; did you mean 'laptop'?" in refused(cluster(*words[:4], "--with", "labtop"))
    pinned = planned(cluster(*words[:4], "--with", "laptop", "--json"))
    assert "layer" in pinned["nodes"]["laptop"]["holds"] and "layer" not in alone["nodes"]["laptop"]["holds"]


@pytest.mark.parametrize("goal", ["latency", "throughput", "balanced"])
@pytest.mark.parametrize("batch", ["1", "4"])
def test_what_a_goal_compares_has_one_unit_in_words_in_data_and_on_the_page(cluster, tmp_path, goal, batch):
    drawn = tmp_path / "plan.html"
    words = ["plan", "smollm2", "--fleet", "trio", "--goal", goal, "--batch", batch]
    shown = " ".join(cluster(*words, "--html", drawn).stdout.split())
    report = planned(cluster(*words, "--json"))
    compared, predicted = report["compared"], report["predicted"]
    each, rate = predicted["time_per_token"], predicted["tokens_per_second"]
    by = {"time_per_token": each, "tokens_per_second": rate, "time_per_token + 1 / tokens_per_second": each + 1 / rate}
    text = tokens_text if goal == "throughput" else seconds_text
    assert compared["chosen"] == pytest.approx(by[compared["by"]])
    assert (compared["by"] == "tokens_per_second") == (goal == "throughput")
    chosen, next_best = text(compared["chosen"]), text(compared["others"][0]["figure"])
    page = " ".join(drawn.read_text().split())
    for where in (shown, page):
        assert re.search(rf"Goal: {goal}, .*: {chosen}[ .]", where)
        assert re.search(rf"Next best: [^.]*, {next_best}\.", where)
    ahead = [one["figure"] for one in compared["others"]]
    assert [compared["chosen"], *ahead] == sorted([compared["chosen"], *ahead], reverse=goal == "throughput")
    headline = figure_text(rate if goal == "throughput" else 1 / each)
    assert f"<title>smollm2 on trio: {headline} tokens/s" in page and f"<b>{headline}</b> tokens/s" in page
    assert "--batch 8 says how fast" not in (shown if batch == "4" else "")


def test_an_unknown_model_is_told_which_are_known(cluster):
    assert "`cluster models` lists those" in refused(cluster("plan", "org/nosuch", "--fleet", "pair"))
    assert LLAMA in planned(cluster("models", "--json"))["planned"]
    assert LLAMA in cluster("models").stdout


def test_the_catalogue_is_listed(cluster):
    report = planned(cluster("catalogue", "--json"))
    assert set(report) == {"machines", "links"} and len(report["machines"]) >= 25
    assert set(report["machines"]["m1-8gb"]) == {
        *("device", "kind", "flops", "memory_bandwidth", "memory", "disk", "source")
    }
    assert set(report["links"]["wifi"]) == {"latency", "bandwidth", "about", "source"}
    assert set(planned(cluster("catalogue", "RTX40", "--json"))["machines"]) >= {"rtx4060-8gb", "rtx4090-24gb"}
    shown = cluster("catalogue").stdout
    assert all(name in shown for name in (*report["machines"], *report["links"]))
    assert "lists them all" in refused(cluster("catalogue", "nosuch"))


def test_what_a_plan_made_by_hand_or_its_kv_would_override_is_refused(cluster, tmp_path):
    words, save = ["plan", "smollm2", "--fleet", "trio"], tmp_path / "plan.yaml"
    assert cluster(*words, "--save", save).returncode == 0
    for option in (["--without", "laptop"], ["--share", "laptop=30%"], ["--rounds", "2"], ["--fewest"]):
        assert f"so {option[0]} would change nothing" in refused(cluster(*words, "--plan", save, *option))
    told = refused(cluster(*words, "--batch", "4", "--prompt", "1000", "--kv-tokens", "2000"))
    assert "need KV for 4512 tokens" in told
    assert "leave one out" in refused(cluster(*words, "--fewest", "--spread", "all"))
    assert (
        planned(cluster(*words, "--fewest", "--json"))["nodes"]
        == planned(cluster(*words, "--fewest", "--spread", "fewest", "--json"))["nodes"]
    )
    enough = cluster(*words, "--batch", "4", "--prompt", "6000")
    assert enough.returncode == 0 and "KV for 24512 tokens" in " ".join(enough.stdout.split())


def test_a_model_is_called_as_it_was_typed(cluster):
    for command in ("plan", "serve"):
        told = refused(cluster(command, "smollm2", "--fleet", "trio", "--quantize", "int4"))
        assert "smollm2 is stored in Q4_1, Q8_0 already" in told


def test_a_plan_is_for_the_model_that_it_names(cluster, tmp_path):
    words, save = ["plan", "smollm2", "--fleet", "trio"], tmp_path / "plan.yaml"
    assert cluster(*words, "--save", save).returncode == 0
    text = save.read_text()

    def given(model):
        save.write_text(text.replace("model: smollm2", f"model: {model}"))
        return cluster(*words, "--plan", save)

    assert not given("smollm2").stderr.startswith("warning")
    told = refused(given("Qwen/Qwen3-8B"))
    assert "it is for model 'Qwen/Qwen3-8B' (36 layers, 4096 wide), not for 'smollm2' (30 layers, 576 wide)" in told
    for model, why in (("HuggingFaceTB/SmolLM2-135M", "of the same sizes"), ("mine", "which is not known here")):
        done = given(model)
        assert done.returncode == 0 and f"warning: the plan says model '{model}', {why}" in done.stderr
        assert "smollm2 · " in done.stdout


GROUP = """model: smollm2
dtype: float32
kv_tokens: 4096
stages:
  - {parts: [embedding, layers 0-19, head], nodes: [desktop, laptop], split: [2, 1]}
"""


BY_HAND = """model: smollm2
dtype: bfloat16
kv_tokens: 4096
stages:
  - node: desktop
    parts: [embedding, layers 0-9]
  - node: laptop
    parts:
      - layers 10-29
      - head
"""


@pytest.mark.parametrize(
    ("right", "wrong", "line", "says"),
    [
        (
            "node: laptop\n",
            "node: laptop\n    residency: host\n",
            8,
            "stage 2, node 'laptop': this version does not run residency host; say streamed",
        ),
        (
            "layers 10-29",
            "layers 13-29",
            6,
            "stage 1: layers 10-12 are in no stage; add 'layers 10-12' to the parts here, or a stage with them after",
        ),
        ("layers 10-29", "layers 9-29", 8, "stage 2: layer 9 is in stages 1 and 2; leave it in one"),
        ("layers 10-29", "layers 10-30", 8, "stage 2: parts: 'layers 10-30': model 'smollm2' has layers 0-29"),
        ("node: laptop", "node: labtop", 7, "fleet 'trio' has no node 'labtop'; did you mean 'laptop'?"),
        ("layers 0-9]", "layers 0-9, attention 10]", 6, "stage 1 cuts through a layer"),
        ("kv_tokens: 4096", "kv_tokens: 409600000", 0, "node 'desktop' has 8.0 GiB of memory, but the plan needs"),
    ],
)
def test_what_is_wrong_with_a_plan_by_hand_is_told_with_file_and_line(cluster, tmp_path, right, wrong, line, says):
    file, text = tmp_path / "by hand.yaml", BY_HAND.replace(right, wrong, 1)
    if "attention 10" in wrong:
        text = text.replace("- layers 10-29", "- ffn 10\n      - layers 11-29")
    file.write_text(text)
    place = f"error: plan {file}: " + (f"line {line}: " if line else "")
    for words in (["plan", "smollm2", "--fleet", "trio"], ["serve", "smollm2", "--fleet", "trio"]):
        told = refused(cluster(*words, "--plan", file))
        assert told.startswith(place) and says in told


def test_a_plan_that_no_worker_runs_is_refused_before_any_is_started(cluster, tmp_path):
    (tmp_path / "plan.yaml").write_text(BY_HAND.replace("node: laptop\n", "node: laptop\n    residency: host\n"))
    for command in (["serve", "smollm2"], ["run", "smollm2", "hello"]):
        told = refused(cluster(*command, "--local", "--cache", tmp_path / "cache", "--plan", tmp_path / "plan.yaml"))
        assert "line 8: stage 2, node 'laptop': this version does not run residency host" in told
    assert not (tmp_path / "cache" / "logs").exists(), "no worker was started"


def test_sums_over_grpc_are_refused_before_anything_starts(cluster, tmp_path):
    (tmp_path / "plan.yaml").write_text(GROUP.replace("layers 0-19", "layers 0-29"))
    words = ["serve", "smollm2", "--fleet", "trio", "--wire", "grpc", "--plan", tmp_path / "plan.yaml"]
    assert "stage 1 is run by 2 nodes, whose sums travel over TCP sockets only" in refused(cluster(*words))


def test_rows_arrive_at_the_member_that_lacks_them(cluster, tmp_path):
    parts = GROUP.replace(", head", "") + "  - {node: desktop, parts: [layers 20-29, head]}\n"
    (tmp_path / "plan.yaml").write_text(parts)
    shown = cluster("plan", "smollm2", "--fleet", "trio", "--plan", tmp_path / "plan.yaml").stdout
    assert "desktop -> laptop (" in shown and "desktop -> desktop" not in shown


def test_memory_holds_a_window_of_what_is_streamed(cluster, tmp_path):
    def share(window):
        stage = f"{{node: desktop, parts: [embedding, layers 0-29, head], residency: streamed{window}}}"
        (tmp_path / "plan.yaml").write_text(f"{GROUP.partition('stages')[0]}stages: [{stage}]\n")
        words = ["plan", "smollm2", "--fleet", "pair", "--plan", tmp_path / "plan.yaml"]
        memory = planned(cluster(*words, "--json"))["plan"]["predicted"]["memory_bytes"]["desktop"]
        assert (
            f"{memory / planned(cluster(*words, '--json'))['nodes']['desktop']['memory']:.0%} of"
            in cluster(*words).stdout
        )
        return memory

    small, larger, free = share(", window: 1"), share(", window: 20"), share("")
    assert small < larger < free


def test_a_plan_that_was_edited_keeps_no_reasons_of_the_one_before(cluster, tmp_path):
    saved, edited = tmp_path / "plan.yaml", tmp_path / "edited.yaml"
    words = ["plan", "smollm2", "--fleet", "trio"]
    proved = cluster(*words, "--save", str(saved)).stdout
    assert "proved to be the best" in proved and "left out: " in proved
    plan = read_yaml(saved.read_text())
    (stage,) = plan["stages"]
    plan["stages"] = [{**stage, "node": "laptop"}]
    edited.write_text(json.dumps(plan))
    shown = cluster(*words, "--plan", str(edited)).stdout
    assert "proved" not in shown and "left out" not in shown and "Next best" not in shown
    before, after = (planned(cluster(*words, "--plan", str(file), "--json")) for file in (saved, edited))
    assert after["predicted"]["time_per_token"] > before["predicted"]["time_per_token"]


def test_machines_of_two_kinds_at_once_are_refused(cluster):
    for words in (["plan", "smollm2", "--fleet", "trio"], ["nodes", "--local"]):
        done = cluster(*words, "--address", "auto")
        assert done.returncode == 2 and "leave one out" in done.stderr and "Traceback" not in done.stderr
