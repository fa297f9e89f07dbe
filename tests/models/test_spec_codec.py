"""Specs survive the wire; anything else on it is refused."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from potluck.models.open import read_spec
from potluck.models.spec import LayerSpec, ModelSpec, Rope, RopeScaling
from potluck.models.spec_codec import pack_spec, unpack_spec

SPEC = ModelSpec(
    name="x",
    family="llama",
    layers=(
        LayerSpec(Rope(1e4, RopeScaling("factors", 1.0, factors=(1.0, 2.5) * 4))),
        LayerSpec(Rope(1e6, RopeScaling("yarn", 4.0, 4096, attention_factor=1.2)), 512),
    ),
    vocab=100,
    hidden=64,
    ffn=128,
    heads=4,
    kv_heads=2,
    head_dim=16,
    context=64,
    norm_eps=1e-6,
    attention_scale=0.25,
)
SHORT = RopeScaling("factors", 1.0, factors=(1.0, 2.0))


def test_round_trip():
    assert unpack_spec(pack_spec(SPEC)) == SPEC
    quantised = replace(SPEC, encodings={"0.q": "Q4_K", "embedding": "Q8_0"})
    assert unpack_spec(pack_spec(quantised)) == quantised


@pytest.mark.parametrize("encodings", [{"0.q": "Q9_9"}, {"0.q": 4}, {3: "Q4_0"}, ["Q4_0"], None])
def test_encodings_that_are_none(encodings):
    with pytest.raises(ValueError, match="model spec"):
        unpack_spec(msgpack.encode({**asdict(SPEC), "encodings": encodings}))


def test_matrices_in_act_order():
    ordered = replace(SPEC, encodings={"0.o": "INT4_G32", "0.q": "INT4_G32"}, ordered=("0.o",))
    assert unpack_spec(pack_spec(ordered)) == ordered
    assert b"ordered" not in pack_spec(SPEC), "fingerprints, which name shard files, would be others"


@pytest.mark.parametrize("ordered", [["0.q"], "0.o", [0], None, {"0.o": 1}, [["0.o"]]])
def test_orders_that_are_none(ordered):
    with pytest.raises(ValueError, match="ordered matrices"):
        unpack_spec(msgpack.encode({**asdict(SPEC), "encodings": {"0.o": "INT4_G32"}, "ordered": ordered}))
    with pytest.raises(ValueError, match="ordered matrices"):
        unpack_spec(msgpack.encode({**asdict(SPEC), "encodings": None, "ordered": ["0.o"]}))


@pytest.mark.parametrize("family", ["llama3", "yarn", "mistral", "gemma3"])
def test_round_trip_of_models(tiny_model, tiny_gguf, family):
    for spec in (read_spec(tiny_model(family)), read_spec(tiny_gguf(family))):
        assert unpack_spec(pack_spec(spec)) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": "4"}, "'heads' is '4'"),
        ({"heads": True}, "'heads'"),
        ({"heads": 3}, "do not divide"),
        ({"vocab": 0}, "vocab must be positive"),
        ({"vocab": 1 << 40}, "'vocab'"),
        ({"norm_eps": float("nan")}, "'norm_eps'"),
        ({"activation": "relu"}, "'activation' is 'relu'"),
        ({"tied_head": 1}, "'tied_head'"),
        ({"name": None}, "'name'"),
        ({"layers": []}, "1 to 4096 layers"),
        ({"layers": [7]}, "exactly the fields"),
        ({"layers": [{"rope": {"base": 1.0, "scaling": None}, "window": -3}]}, "'window'"),
        ({"layers": [{"rope": {"base": 1e4, "scaling": asdict(SHORT)}, "window": None}]}, "2 rope factors for 8"),
        ({"layers": [{"rope": {"base": "x", "scaling": None}, "window": None}]}, "'base'"),
        ({"extra": 1}, "exactly the fields"),
    ],
)
def test_wrong_fields(change, message):
    with pytest.raises(ValueError, match=message):
        unpack_spec(msgpack.encode({**asdict(SPEC), **change}))


@pytest.mark.parametrize(
    ("field", "value"), [("factors", ["x"]), ("factors", [0.0]), ("kind", "ntk"), ("factor", -1.0)]
)
def test_wrong_scaling(field, value):
    data = asdict(replace(SPEC, layers=SPEC.layers[:1]))
    data["layers"][0]["rope"]["scaling"][field] = value
    with pytest.raises(ValueError, match=r"factor|kind"):
        unpack_spec(msgpack.encode(data))


@given(st.binary(max_size=64))
def test_noise_is_refused(data):
    with pytest.raises(ValueError, match="model spec"):
        unpack_spec(data)


@given(st.integers(0, len(pack_spec(SPEC)) - 1), st.integers(0, 7))
def test_flipped_bits_are_refused_or_give_a_sound_spec(position, bit):
    data = bytearray(pack_spec(SPEC))
    data[position] ^= 1 << bit
    try:
        spec = unpack_spec(bytes(data))
    except ValueError:
        return
    assert unpack_spec(pack_spec(spec)) == spec
