"""Cuts of models with biases, norms of heads, tied heads and odd widths of heads; units of cuts and their files."""

import pytest
import torch

from potluck.kernels import packed
from potluck.models.spec import PartKind
from potluck.worker.cut import Cut, computed_heads, kv_heads, whole
from potluck.worker.pieces import Form, Unit, pieces_of, units_of
from potluck.worker.shard_store import ShardStore
from potluck.worker.windows import Window, streamed_units, units_of_windows

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")

EIGHT = {"num_attention_heads": 8, "num_key_value_heads": 4}
CUT = Cut((3, 8), (20, 70), (100, 320))


@pytest.fixture(autouse=True)
def to_the_bit():
    """Products in float32 whatever the processor multiplies faster."""
    packed.backend("generic")
    yield
    packed.backend()


@pytest.fixture
def model(tiny_model, members):
    def make(family, bits="none", **config):
        return members.Model(tiny_model(family, 1, **EIGHT, **config), bits=bits)

    return make


def agree(model, members, parts):
    x_TD = members.rows(model.spec.hidden)
    wanted = model.decoder_layer().forward(x_TD, model.batch()) - x_TD
    found = members.run_together(model, parts, x_TD) - x_TD
    return (found - wanted).abs().max() < 2e-4 * wanted.abs().max()


def computed(model, cut):
    """How many query heads a member computes."""
    first, end = computed_heads(model.spec, cut)
    return end - first


@pytest.mark.parametrize("family", ["llama3", "qwen2", "qwen3", "gemma3", "mistral"])
def test_every_family(tiny_gguf, members, family):
    model = members.Model(tiny_gguf(family, "F32", 1, **EIGHT))
    assert agree(model, members, members.cuts(model.spec, (1, 3), (40, 41), (9, 10)))


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_heads_whose_width_is_no_multiple_of_a_block(model, members, bits):
    wide = model("qwen3", bits, head_dim=80, hidden_size=128, intermediate_size=160)
    parts = members.cuts(wide.spec, (5, 7), (90, 91), (9, 10))
    assert wide.spec.encodings["0.o"] in ("Q4_1", "Q8_0") and agree(wide, members, parts)
    held = torch.cat([members.weight(wide.layer(cut).output, 80 * computed(wide, cut)) for cut in parts], 1)
    assert (held != 0).any(0).sum() == 8 * 80


def test_biases_of_the_rows(model, members):
    biased, nothing = model("qwen2"), torch.zeros(1, 64)
    spec = biased.spec
    q, k, v = biased.layer().qkv(nothing)[0].split([8 * 8, 4 * 8, 4 * 8])
    own = slice(computed_heads(spec, CUT)[0] * 8, None), slice(kv_heads(spec, CUT)[0] * 8, None)
    assert torch.equal(biased.layer(CUT).qkv(nothing)[0], torch.cat((q[own[0]], k[own[1]], v[own[1]])))
    assert q.any() and v.any()


def test_the_output_bias_counts_once(model, members):
    biased, nothing = model("llama3", attention_bias=True), torch.zeros(1, 64)
    parts = members.cuts(biased.spec, (3, 5), (40, 41), (9, 10))
    wanted = biased.layer().output(nothing)
    assert biased.spec.output_bias and wanted.any()
    own = [biased.layer(cut).output(nothing[:, : 8 * computed(biased, cut)]) for cut in parts]
    assert torch.equal(own[0], wanted) and not own[1].any() and not own[2].any()
    assert agree(biased, members, parts)


def test_a_tied_head_of_the_same_cut_is_the_embedding(model):
    tied = model("qwen2")
    ends = {PartKind.EMBEDDING, PartKind.HEAD}
    units = units_of(tied.spec, ends, range(1), CUT)
    assert units == [Unit("embedding", cut=CUT), Unit("layer", 0, CUT), Unit("output_norm")]
    assembly = tied.assembly
    placed = tied.placed(units[0])
    first = assembly.embedding(units[0], placed)
    assert assembly.embedding(units[0], placed) is first
    head = assembly.head(tied.placed(units[2]), units[0], placed)
    assert head.output(torch.zeros(1, 64)).shape == (1, 220)


def test_units_of_windows_have_their_cuts(model):
    spec = model("llama3").spec
    windows = [Window(0, True, range(1), False), Window(2, False, range(1, 2), True, streamed=True, cut=CUT)]
    assert units_of_windows(spec, windows) == [
        *(Unit("embedding"), Unit("layer", 0), Unit("layer", 1, CUT), Unit("output_norm"), Unit("head", cut=CUT))
    ]
    assert streamed_units(windows) == [Unit("layer", 1, CUT)]


@pytest.mark.parametrize("form", [Form("float32", True, True), Form("bfloat16", False, False)])
def test_a_cut_of_everything_is_the_whole(model, form):
    spec = model("qwen2").spec
    for name in ("embedding", "layer", "head"):
        layer = 0 if name == "layer" else None
        assert pieces_of(spec, Unit(name, layer, whole(spec)), form) == pieces_of(spec, Unit(name, layer), form)


def build(model, store, unit):
    store.build(unit, model.pieces(unit), model.packer.make, lambda count: None).mapping.close()
    return store.path(unit, model.pieces(unit))


def test_files_of_cuts_are_found_again(model, tmp_path):
    some = model("llama3")
    store, unit = ShardStore(tmp_path, "ab" * 32, "model"), Unit("layer", 0, CUT)
    path, seen = build(some, store, unit), []
    found = store.find(unit, some.pieces(unit), seen.append)
    assert sum(seen) == sum(piece.nbytes for piece in some.pieces(unit))
    placed, wanted = found.placed(), some.placed(unit)
    assert placed.keys() == wanted.keys() and all(torch.equal(placed[name], wanted[name]) for name in wanted)
    found.mapping.close()
    damaged = bytearray(path.read_bytes())
    damaged[found.manifest.pieces[1].begin + 5] ^= 1
    path.write_bytes(damaged)
    assert store.find(unit, some.pieces(unit), lambda count: None) is None


def test_a_file_is_named_by_what_it_takes(model, tmp_path):
    """Another plan with the same heads and columns of a layer finds it, wherever that plan cuts the vocabulary."""
    some, store = model("llama3"), ShardStore(tmp_path, "ab" * 32, "model")
    other = Cut(CUT.heads, CUT.columns, (0, 50))
    moved = Cut(CUT.heads, (21, 71), CUT.vocabulary)
    shared = Cut((2, 8), CUT.columns, CUT.vocabulary)

    def path(name, cut):
        unit = Unit(name, 0 if name == "layer" else None, cut)
        return store.path(unit, some.pieces(unit))

    assert path("layer", CUT) == path("layer", other)
    assert len({path("layer", cut) for cut in (None, CUT, moved, shared)}) == 4, "moved has the same shapes"
    assert path("embedding", CUT) == path("embedding", moved) != path("embedding", other)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (Form("float32", True, True), ("embedding.34692f9d37f4", "layer-000.e1aa7d8fe35c")),
        (Form("bfloat16", False, False), ("embedding.26c1031362c7", "layer-000.5b28effc9e36")),
    ],
)
def test_whole_units_keep_the_files_they_had_before_cuts(tiny_model, members, tmp_path, form, names):
    some, store = members.Model(tiny_model("qwen2", 1), form), ShardStore(tmp_path, "ab" * 32, "model")
    found = [store.path(unit, some.pieces(unit)).name for unit in (Unit("embedding"), Unit("layer", 0))]
    assert found == [f"{name}.shard" for name in names]
