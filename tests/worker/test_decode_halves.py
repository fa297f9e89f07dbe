"""Decode steps through whole layers, or halves of them, have the bits of steps through one operation after another."""

from dataclasses import replace

import pytest
import torch

from potluck.kernels import halves, packed
from potluck.kernels.decode_layers import DecodeLayers
from potluck.worker.cut import Cut

pytestmark = pytest.mark.skipif(not packed.available(), reason="Potluck was installed without its C++ extension")

PROMPT = [5, 17, 300, 42, 42, 7, 99, 250, 3, 11, 120, 64, 301, 8, 77, 205, 31, 2, 90, 45, 260, 13]
FAMILIES = ["llama3", "mistral", "qwen2", "qwen3", "gemma3"]
DECODED = 4
BACKENDS = [
    name for name in ("avx512", "avx2", "neon", "neon_plain", "generic") if packed.available() and packed.backend(name)
]
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4}


@pytest.fixture(autouse=True)
def best_backend():
    """Whatever a test used, and whatever looking for backends left."""
    packed.backend()
    yield
    packed.backend()


@pytest.fixture
def whole_halves(monkeypatch, in_one):
    """The rows of every half of a layer that was one call, or part of one."""
    rows, call, run = [], halves.Half.__call__, DecodeLayers.run

    def counted(self, x_TD, step):
        rows.append(len(x_TD))
        return call(self, x_TD, step)

    def counted_layers(self, x_TD, *others):
        rows.extend([len(x_TD)] * 2 * self._count)
        in_one.append(self._count)
        return run(self, x_TD, *others)

    monkeypatch.setattr(halves.Half, "__call__", counted)
    monkeypatch.setattr(DecodeLayers, "run", counted_layers)
    return rows


@pytest.fixture
def in_one():
    """How many layers every call took that took whole ones."""
    return []


def one_by_one(pipeline):
    """The same pipeline without halves."""
    for shard in shards_of(pipeline):
        builder = shard._steps.builder
        builder._operations = replace(builder._operations, decode=None)
    return pipeline


def shards_of(pipeline):
    return list(pipeline.shards.values() if isinstance(pipeline.shards, dict) else pipeline.shards)


def results(pipeline, in_process, sequences):
    """Logits of prompts of different lengths, of steps decoding them all, of one with a prompt beside them; KV."""
    seen, shards = [], shards_of(pipeline)
    logits = shards[0]._sampler._logits
    shards[0]._sampler._logits = lambda x_RD: seen.append(logits(x_RD).clone()) or seen[-1]
    requests = [in_process.Request(PROMPT[: 2 + 2 * number]) for number in range(sequences)]
    for number in range(sequences):
        pipeline.step([pipeline._run(number, requests[number], 512)])
    for token in range(DECODED):
        pipeline.step(goes_on(pipeline, requests, token))
    late = in_process.Request(PROMPT)
    pipeline.step([*goes_on(pipeline, requests, DECODED), pipeline._run(sequences, late, 512)])
    assert len(seen) == sequences + DECODED + 1 and all(logits_RV.isfinite().all() for logits_RV in seen)
    return [*seen, *(layer._pool_NS2KE for shard in shards for layer in shard._layers.resident.values())]


def goes_on(pipeline, requests, token):
    """A run of each request with one more token, the same whatever the logits say."""
    for number, request in enumerate(requests):
        request.tokens.append((31 * token + 7 * number) % 300)
    return [pipeline._run(number, request, 512) for number, request in enumerate(requests)]


def same(found, wanted):
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sequences", [1, 2, 8])
def test_every_family(tiny_model, in_process, whole_halves, in_one, family, dtype, sequences):
    path = tiny_model(family, 3)
    wanted = results(one_by_one(in_process.Pipeline(path, dtype=dtype)), in_process, sequences)
    assert not whole_halves
    assert same(results(in_process.Pipeline(path, dtype=dtype), in_process, sequences), wanted)
    assert whole_halves == [sequences] * (2 * 3 * DECODED)
    assert in_one == [3] * DECODED


@pytest.mark.parametrize("family", FAMILIES)
def test_halves_by_themselves(tiny_model, in_process, whole_halves, in_one, family):
    """As where each is told when it is done: at a described node's pace, and with sums that Python forms."""
    path = tiny_model(family, 3)
    wanted = results(one_by_one(in_process.Pipeline(path)), in_process, 2)
    apart = in_process.Pipeline(path)
    for shard in shards_of(apart):
        for layer in shard._layers.resident.values():
            layer._operations = replace(layer._operations, in_one=lambda count: None)
    assert same(results(apart, in_process, 2), wanted)
    assert whole_halves == [2] * (2 * 3 * DECODED) and not in_one


@pytest.mark.parametrize("encoding", ["Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("kept", ["quantized", "weight-only"])
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_every_kind_of_format(tiny_gguf, in_process, whole_halves, encoding, kept, family):
    path = tiny_gguf(family, encoding, **({"head_dim": 64} if family == "gemma3" else {}))
    made = [in_process.Pipeline(path, dtype=torch.bfloat16, kept=kept) for _ in range(2)]
    assert same(results(made[0], in_process, 3), results(one_by_one(made[1]), in_process, 3))
    assert whole_halves == [3] * (2 * 2 * DECODED)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_backend(tiny_gguf, in_process, whole_halves, backend, family):
    packed.backend(backend)
    path = tiny_gguf(family, "Q4_0", **({"head_dim": 64} if family == "gemma3" else {}))
    made = [in_process.Pipeline(path, kept="quantized") for _ in range(2)]
    assert same(results(made[0], in_process, 2), results(one_by_one(made[1]), in_process, 2))
    assert whole_halves == [2] * (2 * 2 * DECODED)


# A cut where blocks of 32 end, and one where they do not; heads by whole KV heads, and two members with parts of one.
CUTS = {
    "whole blocks": (((0, 4), (0, 256)), ((4, 8), (256, 512)), 2 + 2),
    "parts of blocks": (((0, 6), (0, 300)), ((6, 8), (300, 512)), 2 + 0),
    "a shared KV head": (((0, 3), (0, 256)), ((3, 8), (256, 512)), 0 + 2),
}


@pytest.mark.parametrize("which", CUTS)
@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize(("algorithm", "wire"), [("direct", "float32"), ("direct", "bfloat16"), ("star", "float32")])
def test_groups(tiny_gguf, in_process, in_group, whole_halves, in_one, which, sequences, algorithm, wire):
    """What of a matrix is not a member's own is multiplied by zeros outside of a half, so those are not one call."""
    path = tiny_gguf("llama3", "Q4_0", **WIDE)
    vocab, (first, last, calls) = in_process.read_spec(path).vocab, CUTS[which]
    cuts = [Cut(*first, (0, vocab)), Cut(*last, (0, vocab))]
    config = in_group.config_of(torch.float32, torch.device("cpu"), quantized=True)
    how = {"config": config, "source": in_process.in_memory, "algorithm": algorithm, "wire": wire}
    made = [in_group.GroupPipeline(path, cuts, **how) for _ in range(2)]
    try:
        wanted = results(one_by_one(made[0]), in_process, sequences)
        assert not whole_halves
        assert same(results(made[1], in_process, sequences), wanted)
        assert whole_halves == [sequences] * (2 * calls * DECODED)
        whole = which == "whole blocks" and algorithm == "direct"
        assert in_one == [2] * (2 * DECODED * whole)
    finally:
        for pipeline in made:
            pipeline.close()
