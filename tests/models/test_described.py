"""The shape of a model that was named: what is here first, then the hub's configuration, then one that ships."""

import json

import pytest

from potluck.models import described, hub
from potluck.models.described import describe
from potluck.models.source import ModelNotFound

LLAMA = "meta-llama/Llama-3.2-1B-Instruct"


@pytest.fixture
def on_the_hub(monkeypatch, tmp_path):
    """on_the_hub(config): what fetching a configuration gives from now on, None for nothing."""

    def put(config):
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        monkeypatch.setattr(hub, "fetch_config", lambda reference, offline: tmp_path if config is not None else None)

    return put


def shape(tiny_model):
    return json.loads((tiny_model("llama3", 3) / "config.json").read_text())


def test_an_alias_and_a_folder_are_here(tiny_model, tmp_path):
    alias, folder = describe("smollm2", tmp_path), describe(str(tiny_model("llama3", 3)), tmp_path)
    assert (alias.name, len(alias.spec.layers), alias.here) == ("smollm2", 30, True)
    assert (len(folder.spec.layers), folder.here) == (3, True)


def test_the_hubs_configuration_wins_over_the_shipped_one(on_the_hub, tiny_model, tmp_path):
    on_the_hub(shape(tiny_model))
    found = describe(LLAMA, tmp_path)
    assert (found.name, len(found.spec.layers), found.here) == (LLAMA, 3, False)
    assert "hub" in found.origin


@pytest.mark.parametrize("reference", [LLAMA, f"{LLAMA}@main", LLAMA.lower()])
def test_without_it_the_shipped_one_is_taken(on_the_hub, tmp_path, reference):
    on_the_hub(None)
    found = describe(reference, tmp_path)
    assert (found.name.lower(), len(found.spec.layers), found.here) == (LLAMA.lower(), 16, False)


def test_of_quantised_weights_a_configuration_is_not_enough(on_the_hub, tiny_model, tmp_path, monkeypatch):
    """Which matrices they are, only the files say."""
    packed = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    on_the_hub(shape(tiny_model) | {"quantization_config": packed})
    asked = []

    def locate(reference, *_):
        asked.append(reference)
        raise ModelNotFound("no network here")

    monkeypatch.setattr(described, "locate", locate)
    with pytest.raises(ModelNotFound, match="no network here; `cluster models` lists"):
        describe("org/packed", tmp_path)
    assert asked == ["org/packed"]


def test_what_is_neither_here_nor_known_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match="`cluster models` lists those that are planned for"):
        describe("org/nosuch", tmp_path, offline=True)
    with pytest.raises(ModelNotFound, match="alias"):
        describe("nosuch", tmp_path, offline=True)
