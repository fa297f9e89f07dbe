"""The layers on the other nodes really take part: other weights there, another text."""

import shutil

import torch
from safetensors.torch import load_file, save_file


def poisoned(folder, target):
    """A copy of a tiny model with one matrix of its last layer changed."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.4.mlp.down_proj.weight"))
    noise = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(1))
    weights[name] = weights[name] + noise * weights[name].std()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_one_changed_layer_on_one_worker_changes_the_text(rig, tools, tiny_model, tmp_path):
    path = tiny_model("llama3", 5)
    files, other = tools.files_of(path), tools.files_of(poisoned(path, tmp_path / "poisoned"))
    assert files.fingerprint != other.fingerprint
    plan, prompt = rig.plan_for(files, 3), list(range(4, 24))
    (before,) = tools.texts(rig.serve(files, plan), [tools.ask(prompt, 32)])
    owner = next(stage.node for stage in plan.routes[0].stages if 4 in stage.layers)
    (after,) = tools.texts(rig.serve(files, plan, sources={owner: other}), [tools.ask(prompt, 32)])
    assert before != after
    (again,) = tools.texts(rig.serve(files, plan), [tools.ask(prompt, 32)])
    assert again == before
