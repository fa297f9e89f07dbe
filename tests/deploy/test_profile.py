"""`cluster profile` and `cluster nodes` of this machine."""

import json
import re


def reported(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_this_machine_is_measured_once(cluster, tmp_path):
    words = ["--local", "--threads", "1", "--cache", tmp_path]
    told = cluster("profile", *words, "--json")
    first, again = reported(told), reported(cluster("nodes", *words, "--json"))
    for node in (*first["nodes"].values(), *again["nodes"].values()):
        # Free memory is read anew.
        assert node.pop("memory") and node.pop("swap_free", None) != 0
    assert again == first
    (node,) = first["nodes"].values()
    assert {"flops", "memory_bandwidth", "memory_total", "formats", "layer_overhead", "cores"} <= set(node)
    (tmp_path / "fleet.yaml").write_text(told.stdout)
    shown = cluster("nodes", *words).stdout
    assert re.search(r"\* requests arrive here; measured (now|\d minutes ago)", shown)
    for text in (shown, cluster("nodes", "--fleet", tmp_path / "fleet.yaml").stdout):
        assert re.search(r"GB/s, GFLOPS[\s\S]*Q4_0 +[0-9.]+, [0-9.]+", text) and "software, a layer" in text
    report = reported(cluster("plan", "smollm2", "--add", "m4-16gb", *words, "--json"))
    assert set(report["nodes"]) == {*first["nodes"], "m4-16gb"}
