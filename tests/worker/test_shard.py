"""What a shard promises and refuses, apart from the numbers it computes."""

from dataclasses import replace

import pytest
import torch
from msgspec import structs

from potluck.models.open import open_checkpoint, read_spec
from potluck.models.roles import Role, TensorKey
from potluck.proto.step import Outputs, Run, Sampling, Step
from potluck.worker.kv import KvError
from potluck.worker.packing import Packer, WeightError
from potluck.worker.pieces import keys_of_pieces, pieces_of
from potluck.worker.shard import Shard, ShardConfig, StepError, Window
from potluck.worker.shard_memory import ShardMemory
from potluck.worker.weight_source import InMemory

CONFIG = ShardConfig(torch.float32, 8, 4, 16, torch.device("cpu"))
GREEDY = Sampling(temperature=0.0)


def loaded(path, windows, config=CONFIG, change=None):
    """A shard and the keys that it was made from."""
    spec, seen = read_spec(path), []
    packer = Packer(spec, open_checkpoint(path), change)
    shard = Shard(spec, windows, config)

    def place(unit):
        pieces = pieces_of(spec, unit, config.form)
        seen.extend(keys_of_pieces(pieces))
        return packer.place(pieces)

    shard.load(InMemory(place))
    return shard, seen


def run(sequence, tokens, blocks, position=0, outputs=Outputs.LAST):
    return Run(sequence, position, tokens, blocks, outputs, GREEDY if position == 0 else None)


@pytest.fixture
def whole(tiny_model):
    return loaded(tiny_model("llama3"), [Window(0, True, range(4), True)])[0]


@pytest.mark.parametrize("family", ["llama2", "qwen2", "qwen3", "gemma3"])
def test_every_key_is_read_once(tiny_model, family):
    path = tiny_model(family)
    windows = [Window(0, True, range(2), False), Window(2, False, range(2, 4), True)]
    _, seen = loaded(path, windows)
    assert set(seen) == set(open_checkpoint(path).entries)
    assert len(seen) == len(set(seen))


def held(shard):
    """Bytes of every tensor that a shard holds on to, counted where they lie."""
    total, seen = 0, set()
    stack = [shard._embedding, *shard._layers.resident.values(), shard._head]
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            total += 0 if id(item) in seen else item.numel() * item.element_size()
            seen.add(id(item))
        elif isinstance(item, (list, tuple)):
            stack += item
        elif hasattr(item, "__slots__") and not isinstance(item, (str, bytes)):
            stack += [getattr(item, name) for name in item.__slots__ if name not in ("_spec", "_layer")]
    return total


@pytest.mark.parametrize("family", ["llama3", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_holds_the_bytes_it_requires(tiny_model, family, dtype):
    windows = [Window(0, True, range(1), False), Window(2, False, range(2, 4), True)]
    config = replace(CONFIG, dtype=dtype)
    path = tiny_model(family)
    shard, _ = loaded(path, windows, config)
    memory = ShardMemory(read_spec(path), tuple(windows), config)
    weights, kv = memory.weights, memory.kv
    assert (shard.memory.weights, shard.memory.kv) == (weights, kv)
    # The q and k norms are kept once per head.
    spec = read_spec(path)
    repeated = 3 * (spec.heads + spec.kv_heads - 2) * spec.head_dim * 4 if spec.qk_norm else 0
    assert held(shard) == weights + kv + repeated


def test_a_tied_head_away_from_the_embedding_reads_it_too(tiny_model):
    shard, seen = loaded(tiny_model("qwen2"), [Window(3, False, range(0), True)])
    assert seen == [TensorKey(Role.OUTPUT_NORM), TensorKey(Role.EMBEDDING)]
    assert shard.memory.kv == 0


def test_a_tensor_of_the_wrong_shape_is_refused(tiny_model):
    def change(key, tensor):
        return tensor[:-1] if key == TensorKey(Role.K, 2) else tensor

    with pytest.raises(WeightError, match=r"2\.k is \(31, 64\)"):
        loaded(tiny_model("llama3"), [Window(0, True, range(4), True)], change=change)


@pytest.mark.parametrize(
    "windows",
    [
        [],
        [Window(0, True, range(2), False), Window(0, False, range(2, 4), True)],
        [Window(0, True, range(3), False), Window(1, False, range(2, 4), True)],
        [Window(0, False, range(3, 5), False)],
    ],
)
def test_impossible_windows(tiny_model, windows):
    with pytest.raises(ValueError):
        Shard(read_spec(tiny_model("llama3")), windows, CONFIG)


def test_a_step_that_only_drops(whole):
    whole.run(0, Step(1, [run(1, [5, 6], [0])]), None)
    assert whole.run(0, Step(2, [], dropped=[1]), None) == []
    assert len(whole._steps.tables) == 0


def test_a_prompt_chunk_in_the_middle_has_no_outcome(whole):
    assert whole.run(0, Step(1, [run(1, [5, 6], [0], outputs=Outputs.NONE)]), None) == []


def test_only_sampled_rows_reach_a_head_alone(tiny_model):
    path = tiny_model("llama3")
    body, _ = loaded(path, [Window(0, True, range(4), False, next_wants_sampled=True)])
    head, _ = loaded(path, [Window(1, False, range(0), True)])
    runs = [run(1, [5, 6, 7], [0]), run(2, [8], [1], outputs=Outputs.NONE), run(3, [9, 4], [2], outputs=Outputs.ALL)]
    step = Step(1, runs)
    x = body.run(0, step, None)
    assert x.shape == (3, 64)
    outcomes = head.run(1, step, x)
    assert [outcome.sequence for outcome in outcomes] == [1, 3]
    silent = Step(2, [run(2, [3], [], position=1, outputs=Outputs.NONE)])
    x = body.run(0, silent, None)
    assert x.shape == (0, 64)
    assert head.run(1, silent, x) == []


@pytest.mark.parametrize(
    ("step", "stage", "x", "message"),
    [
        (Step(2, [run(1, [5], [0])]), 3, None, "stage 3 is not on this node"),
        (Step(1, [run(2, [5], [1])]), 0, None, "came after step 1"),
        (Step(2, [run(2, [5] * 17, [0])]), 0, None, "17 rows, more than the 16"),
        (Step(2, [run(2, [320], [1])]), 0, None, "token 320 of sequence 2"),
        (Step(2, [run(2, [-1], [1])]), 0, None, "sequence 2 is to go on with a token of the step before"),
        (Step(2, [structs.replace(run(2, [5], [1]), history=[999])]), 0, None, "token 999 of sequence 2"),
        (Step(2, [run(2, [5], [1])]), 0, torch.zeros(1, 64), "takes no hidden rows"),
    ],
)
def test_refused_steps(whole, step, stage, x, message):
    whole.run(0, Step(1, [run(1, [5], [0])]), None)
    with pytest.raises(StepError, match=message):
        whole.run(stage, step, x)


def test_kv_that_does_not_exist_is_refused_and_the_next_step_runs(whole):
    with pytest.raises(KvError):
        whole.run(0, Step(1, [run(1, [5], [8])]), None)
    [outcome] = whole.run(0, Step(1, [run(1, [5], [7])]), None)
    assert outcome.token >= 0


@pytest.mark.parametrize("x", [None, torch.zeros(2, 64), torch.zeros(1, 63), torch.zeros(1, 64).bfloat16()])
def test_hidden_rows_must_fit_the_step(tiny_model, x):
    shard, _ = loaded(tiny_model("llama3"), [Window(1, False, range(2), False)])
    with pytest.raises(StepError, match=r"needs hidden rows \(1, 64\)"):
        shard.run(1, Step(1, [run(1, [5], [0])]), x)


def test_a_later_window_before_the_first_is_refused(tiny_model):
    shard, _ = loaded(tiny_model("llama3"), [Window(0, True, range(2), False), Window(2, False, range(2, 4), True)])
    with pytest.raises(StepError, match="before stage 0"):
        shard.run(2, Step(1, [run(1, [5], [0])]), torch.zeros(1, 64))


def test_steps_overtake_each_other_between_windows(tiny_model):
    """Two in flight: the second step drops the first's sequence and takes its block, before the first is done."""
    path = tiny_model("llama3")
    windows = [Window(0, True, range(2), False), Window(1, False, range(2, 4), True)]
    first, second = Step(1, [run(1, [5, 6, 7], [0])]), Step(2, [run(2, [9, 9], [0])], dropped=[1])
    apart, _ = loaded(path, windows)
    wanted = [apart.run(1, step, apart.run(0, step, None)) for step in (first, second)]
    shard, _ = loaded(path, windows)
    rows = [shard.run(0, step, None) for step in (first, second)]
    assert [shard.run(1, step, x) for step, x in zip((first, second), rows, strict=True)] == wanted
    assert not shard._steps.underway


def test_hidden_rows_of_the_caller_are_left_alone(tiny_model):
    shard, _ = loaded(tiny_model("gemma3"), [Window(1, False, range(2), False)])
    x = torch.randn(2, 64)
    before = x.clone()
    shard.run(1, Step(1, [run(1, [5, 6], [0])]), x)
    assert torch.equal(x, before)
