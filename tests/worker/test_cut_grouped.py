"""What members of a group hold of GPTQ and AWQ checkpoints, whose act-order mixes the heads of the output matrix."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from potluck.kernels import packed
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.safetensors_grouped import GroupedPlace
from potluck.worker.cut import computed_heads, kv_heads
from potluck.worker.packing import Packer, WeightError
from potluck.worker.pieces import Form, Unit, keys_of_pieces, pieces_of
from potluck.worker.residence import DeviceMemory
from potluck.worker.shard_store import ShardStore
from potluck.worker.takes import picked_columns

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
ORDERED = GPTQ | {"desc_act": True}
CONFIGS = {
    "GPTQ": (GPTQ, {}),
    "GPTQ of 8 bits in groups of 128": (GPTQ | {"bits": 8, "group_size": 128}, {}),
    "act-order": (ORDERED, {"act_order": True}),
    "act-order in groups of 64": (ORDERED | {"group_size": 64}, {"act_order": True}),
    "act-order in groups of 128": (ORDERED | {"group_size": 128}, {"act_order": True}),
    "act-order of 8 bits in groups of 128": (ORDERED | {"bits": 8, "group_size": 128}, {"act_order": True}),
    "act-order in one group": (ORDERED | {"group_size": 256}, {"act_order": True}),
    "AWQ": (AWQ, {}),
    "AWQ in groups of 128": (AWQ | {"group_size": 128}, {}),
}
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 16, "num_key_value_heads": 8}
SPLITS = {
    "5:2:1": ((10, 14), (200, 301), (200, 279)),
    "shared": ((1, 7), (256, 257), (1, 16)),
}


@pytest.fixture(autouse=True)
def to_the_bit():
    """Products in float32 whatever the processor multiplies faster."""
    packed.backend("generic")
    yield
    packed.backend()


@pytest.fixture(scope="module")
def made(tiny_model, grouped_models, members, tmp_path_factory):
    """made(kind) -> the model, its exact weights, and the order of columns of a layer's matrices."""
    known = {}

    def make(kind):
        if kind not in known:
            config, how = CONFIGS[kind]
            target = tmp_path_factory.mktemp("grouped") / "model"
            exact = grouped_models.quantise_folder(tiny_model("qwen2", 1, **WIDE), target, config, **how)
            known[kind] = members.Model(target), exact, orders(target)
        return known[kind]

    return make


def orders(folder):
    """argsort of every g_idx by its matrix's name."""
    tensors = load_file(folder / "model.safetensors")
    ends = "model.layers.0.", ".g_idx"
    return {
        name.removeprefix(ends[0]).removesuffix(ends[1]): torch.argsort(g_idx, stable=True)
        for name, g_idx in tensors.items()
        if name.endswith(ends[1])
    }


@pytest.fixture(params=CONFIGS)
def stored(request, made):
    return made(request.param)


@pytest.fixture(params=SPLITS)
def parts(request, stored, members):
    return members.cuts(stored[0].spec, *SPLITS[request.param])


def scaled(heads, width):
    return slice(heads[0] * width, heads[1] * width)


def neurons(order, cut):
    """The FFN columns of a member: those that the down matrix stores there."""
    return order.get("mlp.down_proj", torch.arange(512))[slice(*cut.columns)]


def test_the_spec_says_which_matrices_are_in_act_order(stored, request):
    model, _, order = stored
    out_of_order = {name for name, order_I in order.items() if not torch.equal(order_I, torch.arange(len(order_I)))}
    assert len(model.spec.ordered) == len(out_of_order), model.spec.ordered
    assert ("0.down" in model.spec.ordered) == ("mlp.down_proj" in out_of_order)


def test_fingerprints_are_those_from_before_the_spec_knew(made, monkeypatch):
    model = made("act-order")[0]
    ordered, fingerprint = model.spec.ordered, model.checkpoint.fingerprint
    monkeypatch.setattr(GroupedPlace, "is_ordered", lambda place: False)
    assert read_spec(model.path).ordered == () != ordered
    assert open_checkpoint(model.path).fingerprint == fingerprint


@pytest.mark.parametrize("rounded", [False, True])
def test_rows_are_the_wholes(stored, parts, members, rounded):
    model, _, order = stored
    spec, x_TD = model.spec, members.rows(model.spec.hidden)
    model = model.rounding() if rounded else model
    whole = model.layer()
    q, k, v = whole.qkv(x_TD).split([256, 128, 128], dim=1)
    gate, up = whole.gate_up(x_TD).chunk(2, 1)
    for cut in parts:
        member = model.layer(cut)
        queries, keys = scaled(computed_heads(spec, cut), 16), scaled(kv_heads(spec, cut), 16)
        assert torch.equal(member.qkv(x_TD), torch.cat((q[:, queries], k[:, keys], v[:, keys]), 1))
        own = neurons(order, cut)
        assert torch.equal(member.gate_up(x_TD), torch.cat((gate[:, own], up[:, own]), 1))


def test_columns_are_the_checkpoints_own_numbers(stored, parts, members):
    model, exact, order = stored
    output, down = (exact[f"model.layers.0.{name}_proj.weight"] for name in ("self_attn.o", "mlp.down"))
    for cut in parts:
        member = model.layer(cut)
        first, end = computed_heads(model.spec, cut)
        wanted = torch.zeros_like(output)
        wanted[:, scaled(cut.heads, 16)] = output[:, scaled(cut.heads, 16)]
        found = members.weight(member.output, (end - first) * 16)
        assert torch.equal(found, wanted[:, scaled((first, end), 16)])
        own = neurons(order, cut)
        assert torch.equal(members.weight(member.down, len(own)), down[:, own])


@pytest.mark.parametrize("rounded", [False, True])
def test_members_of_a_layer_give_what_the_layer_gives(stored, parts, members, rounded):
    model, x_TD = stored[0], members.rows(256)
    wanted = model.decoder_layer().forward(x_TD, model.batch()) - x_TD
    model = model.rounding() if rounded else model
    found = members.run_together(model, parts, x_TD) - x_TD
    assert (found - wanted).abs().max() < (0.05 if rounded else 1e-4) * wanted.abs().max()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="kernels for GPUs need Triton")
@pytest.mark.parametrize("kind", ["act-order in groups of 128", "AWQ"])
def test_on_a_device_they_are_the_same(made, members, kind):
    """Through Triton's interpreter where there is no GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    host = replace(made(kind)[0], form=Form("float32", True, False))
    x_TD = members.rows(256)
    for cut in members.cuts(host.spec, *SPLITS["shared"]):
        own, there = host.layer(cut), replace(host, residence=DeviceMemory(device)).layer(cut)
        first, end = computed_heads(host.spec, cut)
        for name, width in (("qkv", 256), ("output", (end - first) * 16), ("down", cut.columns[1] - cut.columns[0])):
            x_TI = x_TD.repeat(1, 2)[:, :width]
            found = getattr(there, name)(x_TI.to(device)).cpu()
            torch.testing.assert_close(found, getattr(own, name)(x_TI), atol=1e-3, rtol=1e-3)


def test_decoded_ones_are_cut_like_any_numbers(made, members):
    for kind in ("act-order", "AWQ"):
        model = replace(made(kind)[0], form=Form("float32", False, True))
        x_TD = members.rows(256)
        wanted = model.decoder_layer().forward(x_TD, model.batch()) - x_TD
        found = members.run_together(model, members.cuts(model.spec, *SPLITS["shared"]), x_TD) - x_TD
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_files_are_built_and_found_with_the_bytes_that_are_said(stored, parts, tmp_path):
    model = stored[0]
    store = ShardStore(tmp_path, "ab" * 32, "model")
    for cut in parts:
        unit = Unit("layer", 0, cut)
        pieces = model.pieces(unit)
        store.build(unit, pieces, model.packer.make, lambda count: None).mapping.close()
        found = store.find(unit, pieces, lambda count: None)
        assert {name: len(data) for name, data in found.placed().items()} == {p.name: p.nbytes for p in pieces}
        assert "down.0.order" not in found.placed(), "no gather at run time"
        assert ("output.0.order" in found.placed()) == ("0.o" in model.spec.ordered)
        assert set(keys_of_pieces(pieces)) == set(keys_of_pieces(model.pieces(Unit("layer", 0))))
        found.mapping.close()


def test_a_small_member_takes_less_of_an_output_matrix_in_act_order(made, members):
    model = made("act-order in groups of 128")[0]
    *_, small = members.cuts(model.spec, *SPLITS["5:2:1"])
    unit = Unit("layer", 0, small)
    shape = {piece.name: piece.shape for piece in model.pieces(unit)}["output.0"]
    assert shape == (256, 64), "32 columns of two groups, at the worst in a block of each"
    placed = model.placed(unit)
    numbers = packed.PackedMatrix("INT4_G32", shape, placed["output.0"]).select(torch.arange(256))
    order_C = placed["output.0.order"].view(torch.int64)
    assert sorted(order_C[order_C < 32].tolist()) == list(range(32))
    assert not numbers[:, order_C == 32].any() and numbers[:, order_C < 32].any(0).all()


@given(data=st.data(), group=st.sampled_from([32, 64, 96, 128, 256]), groups=st.integers(1, 12))
def test_there_are_always_blocks_enough(data, group, groups):
    """However act-order deals inputs to full groups, and whichever are picked."""
    total = group * groups
    counts = data.draw(st.lists(st.integers(0, group), min_size=groups, max_size=groups).filter(any))
    stored = "INT4_G32" if group % 128 else "INT4_G128"
    needed = sum(-(-count // 32) for count in counts) * 32
    assert needed <= picked_columns(stored, total, sum(counts)) <= total


def test_the_bound_on_blocks_is_met():
    assert picked_columns("INT4_G128", 4096, 2048) == 32 * (32 + 2016 // 32)
    assert picked_columns("INT4_G128", 4096, 20) == 32 * 20
    assert picked_columns("INT4_G32", 4096, 2048) == 4096


def test_an_order_that_the_plan_does_not_know_is_refused(made, members):
    model = made("act-order")[0]
    spec = replace(read_spec(model.path), ordered=())
    unit = Unit("layer", 0, members.cuts(spec, *SPLITS["5:2:1"])[1])
    with pytest.raises(WeightError, match=r"tensor 0\.(o|down) is stored in another format .*; plan again"):
        Packer(spec, model.checkpoint).place(pieces_of(spec, unit, model.form))
