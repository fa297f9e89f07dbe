"""What members of a group hold: the checkpoint's own numbers, side by side or adding up to what the whole gives."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from potluck.kernels import packed
from potluck.models.decode import decode
from potluck.models.roles import Role, TensorKey
from potluck.worker.cut import computed_heads, kv_heads
from potluck.worker.pieces import Form, Unit, pieces_of
from potluck.worker.residence import HostMemory
from potluck.worker.shard_memory import bytes_of

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")

STORED = ["F32", "BF16", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
FORMATS = [*STORED, "int4", "int8", "rows of float32", "rows of bfloat16"]
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 16, "num_key_value_heads": 8}
# Ends of heads, FFN columns and vocabulary rows: a 5:2:1 split of 8 KV heads, whose columns end within blocks of 256
# and of 32; and members that share KV heads 0 (query heads 0 and 1) and 3 (6 and 7), so that they compute foreign query
# heads before and after their own.
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


@pytest.fixture(params=FORMATS)
def model(request, tiny_model, tiny_gguf, members):
    """Of the family whose GGUF files have the rows of q and k in another order."""
    kind = request.param
    if kind in STORED:
        return members.Model(tiny_gguf("llama3", kind, 1, **WIDE))
    if kind in ("int4", "int8"):
        return members.Model(tiny_model("llama3", 1, **WIDE), bits=kind)
    return members.Model(tiny_model("llama3", 1, **WIDE), Form(kind.split()[-1], False, False))


@pytest.fixture(params=SPLITS)
def parts(request, model, members):
    return members.cuts(model.spec, *SPLITS[request.param])


def scaled(heads, width):
    return slice(heads[0] * width, heads[1] * width)


def split(product, model, x_TD):
    """q, k, v of a whole layer's fused product."""
    spec = model.spec
    keys = spec.kv_heads * spec.head_dim
    return product(x_TD).split([spec.heads * spec.head_dim, keys, keys], dim=1)


def test_rows_of_heads_and_columns_are_the_wholes(model, parts, members):
    """The same numbers go into the same operations: equal to the bit, whatever lies beside a row."""
    spec, whole, x_TD = model.spec, model.layer(), members.rows(model.spec.hidden)
    for rounded in (False, True) if model.form.packed else (False,):
        kept = model.rounding() if rounded else model
        whole = kept.layer()
        q, k, v = split(whole.qkv, kept, x_TD)
        gate, up = whole.gate_up(x_TD).chunk(2, 1)
        for cut in parts:
            member = kept.layer(cut)
            queries = scaled(computed_heads(spec, cut), spec.head_dim)
            keys = scaled(kv_heads(spec, cut), spec.head_dim)
            wanted = torch.cat((q[:, queries], k[:, keys], v[:, keys]), 1)
            columns = slice(*cut.columns)
            same(member.qkv(x_TD), wanted, model)
            same(member.gate_up(x_TD), torch.cat((gate[:, columns], up[:, columns]), 1), model)
            assert torch.equal(member.attention_norm, whole.attention_norm)
            assert torch.equal(member.ffn_norm, whole.ffn_norm)


def same(found, wanted, model):
    """torch's own product depends on the rows beside a row; the packed one does not."""
    if model.form.packed:
        assert torch.equal(found, wanted)
    else:
        torch.testing.assert_close(found, wanted)


def stored(model, role):
    """A matrix of layer 0 as gguf reads it, in the type that it is kept in."""
    key = TensorKey(role, 0)
    numbers = decode(model.checkpoint.entries[key], model.checkpoint.raw(key))
    if model.bits != "none":
        kind = GGMLQuantizationType[model.spec.encodings[str(key)]]
        return torch.from_numpy(quants.dequantize(quants.quantize(np.ascontiguousarray(numbers), kind), kind).copy())
    return numbers.bfloat16().float() if model.form.dtype == "bfloat16" else numbers


def test_columns_are_the_checkpoints_own_numbers(model, parts, members):
    """Every column of output and down is with one member, which has it to the bit; others are zeros."""
    spec = model.spec
    output, down = stored(model, Role.O), stored(model, Role.DOWN)
    held_output, held_down = torch.zeros_like(output), torch.zeros_like(down)
    for cut in parts:
        member = model.layer(cut)
        first, end = computed_heads(spec, cut)
        local = members.weight(member.output, (end - first) * spec.head_dim).float()
        assert torch.equal(local.any(0).nonzero().flatten() // spec.head_dim + first, own_heads(cut, spec))
        held_output[:, scaled((first, end), spec.head_dim)] += local
        held_down[:, slice(*cut.columns)] += members.weight(member.down, cut.columns[1] - cut.columns[0])
    assert torch.equal(held_output, output) and torch.equal(held_down, down)


def own_heads(cut, spec):
    return torch.arange(*cut.heads).repeat_interleave(spec.head_dim)


@pytest.mark.parametrize("rounded", [False, True])
def test_partial_products_add_up(model, parts, members, rounded):
    spec = model.spec
    kept = model.rounding() if rounded else model
    whole = kept.layer()
    attended, gated = members.rows(spec.heads * spec.head_dim), members.rows(spec.ffn, salt=1)
    outputs, downs = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for cut in parts:
        member = kept.layer(cut)
        outputs = outputs + member.output(attended[:, scaled(computed_heads(spec, cut), spec.head_dim)]).double()
        downs = downs + member.down(gated[:, slice(*cut.columns)]).double()
    # A step of 8 bits is 1/127 of the largest of 16 activations; the bfloat16 of rows rounds every member's sum.
    tolerance = 0.02 if rounded or model.form.dtype == "bfloat16" else 2e-6
    for found, wanted in ((outputs, whole.output(attended)), (downs, whole.down(gated))):
        assert (found - wanted).abs().max() < tolerance * wanted.abs().max()


def test_members_of_a_layer_give_what_the_layer_gives(model, parts, members):
    x_TD = members.rows(model.spec.hidden)
    wanted = model.decoder_layer().forward(x_TD, model.batch()) - x_TD
    found = members.run_together(model, parts, x_TD) - x_TD
    tolerance = 0.02 if model.form.dtype == "bfloat16" else 1e-4
    assert (found - wanted).abs().max() < tolerance * wanted.abs().max()


@pytest.mark.parametrize("name", ["embedding", "head"])
def test_vocabulary_rows_are_the_wholes(model, parts, members, name):
    spec, x_TD = model.spec, members.rows(model.spec.hidden)
    embedding, head = model.vocabulary(name)
    every = torch.arange(spec.vocab)
    numbers = embedding if isinstance(embedding, torch.Tensor) else embedding.select(every)
    for cut in parts:
        local, own = model.vocabulary(name, cut)
        first, end = cut.vocabulary
        found = local if isinstance(local, torch.Tensor) else local.select(every[: end - first])
        assert torch.equal(found, numbers[first:end])
        same(own.output(x_TD), head.output(x_TD)[:, first:end], model)


def test_the_bytes_that_are_said_are_taken(model, parts):
    spec = model.spec
    for cut in parts:
        units = [Unit("embedding", cut=cut), Unit("layer", 0, cut), Unit("head", cut=cut)]
        for unit in units:
            placed = model.placed(unit)
            assert {name: len(data) for name, data in placed.items()} == {
                piece.name: piece.nbytes for piece in model.pieces(unit)
            }
        taken = sum(piece.nbytes for unit in units for piece in pieces_of(spec, unit, model.form))
        assert bytes_of(spec, units, model.form, HostMemory()) == taken
        whole = [Unit("embedding"), Unit("layer", 0), Unit("head")]
        assert taken < bytes_of(spec, whole, model.form, HostMemory())
