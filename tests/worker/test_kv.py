import pytest
import torch

from potluck.proto.step import Outputs, Run, Step
from potluck.worker.kv import BlockTables, KvError, KvShape, new_pool


def run(sequence, position, tokens, blocks):
    return Run(sequence, position, [1] * tokens, blocks, Outputs.NONE)


def step(*runs, dropped=(), number=1):
    return Step(number, list(runs), list(dropped))


@pytest.fixture
def tables():
    return BlockTables(KvShape(blocks=8, block_size=4))


def test_tables_grow_and_are_forgotten(tables):
    assert tables.apply(step(run(7, 0, 5, [3, 0]), run(8, 0, 1, [7]))) == [3, 0, 7]
    assert tables.apply(step(run(7, 5, 4, [2]), run(8, 1, 1, []))) == [2]
    assert list(tables.blocks(7)) == [3, 0, 2]
    tables.apply(step(run(8, 2, 1, []), dropped=[7]))
    assert len(tables) == 1
    tables.apply(step(dropped=[8, 99]))
    assert len(tables) == 0


def test_every_block_is_usable(tables):
    tables.apply(step(run(1, 0, 32, list(range(8)))))
    assert list(tables.blocks(1)) == list(range(8))


def test_a_sequence_may_begin_again_in_the_step_that_drops_it(tables):
    tables.apply(step(run(1, 0, 8, [1, 2])))
    tables.apply(step(run(1, 0, 3, [5]), dropped=[1]))
    assert list(tables.blocks(1)) == [5]


def test_shared_blocks_are_not_cleared(tables):
    """A sequence that starts on another's KV: only blocks from its own position on are new."""
    assert tables.apply(step(run(1, 8, 2, [4, 5, 6]))) == [6]


def test_rejected_drafts_are_overwritten(tables):
    tables.apply(step(run(1, 0, 7, [1, 2])))
    assert tables.apply(step(run(1, 5, 2, []))) == []
    with pytest.raises(KvError, match="goes on at position 8"):
        tables.apply(step(run(1, 8, 1, [3])))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (run(2, 0, 1, [8]), "blocks 0 to 7"),
        (run(2, 0, 1, [-1]), "blocks 0 to 7"),
        (run(2, 0, 5, [1]), "needs KV for 5 tokens"),
        (run(2, 0, 1, [1, 1]), "twice"),
        (run(1, 4, 1, [3]), "twice"),
        (run(1, 6, 1, [4]), "goes on at position 6"),
        (run(2, -1, 1, [1]), "position -1"),
        (run(2, 0, 0, [1]), "run is empty"),
    ],
)
def test_refused_before_anything_changes(tables, bad, message):
    tables.apply(step(run(1, 0, 4, [3]), run(5, 0, 1, [0])))
    with pytest.raises(KvError, match=message):
        tables.apply(step(run(4, 0, 1, [2]), bad, dropped=[5]))
    assert list(tables.blocks(1)) == [3]
    assert list(tables.blocks(5)) == [0]
    assert len(tables) == 2


def test_two_runs_of_one_sequence_are_refused(tables):
    with pytest.raises(KvError, match="two runs"):
        tables.apply(step(run(1, 0, 1, [0]), run(1, 1, 1, [])))


def test_pools_take_the_bytes_they_promise(tiny_model):
    from potluck.models.open import read_spec

    spec, shape = read_spec(tiny_model("qwen3")), KvShape(blocks=5, block_size=3)
    pool = new_pool(spec, shape, torch.empty(0, dtype=torch.bfloat16))
    assert pool.nbytes == shape.bytes_per_layer(spec, torch.bfloat16)
