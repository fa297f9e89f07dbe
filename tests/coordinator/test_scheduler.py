"""What goes into a step, case by case.

That nothing is lost or doubled is in test_scheduler_properties.py, steps that go ahead in test_scheduler_ahead.py.
"""

import pytest

from potluck.coordinator.scheduler.limits import NeverFits, QueueFull
from potluck.proto.step import Outcome, Outputs, Result


def test_decodes_come_before_prefill_chunks(bench, ask):
    one = bench()
    one.scheduler.submit([ask([1, 2, 3], 5)])
    assert one.fill() == [{1: 3}]
    one.scheduler.submit([ask(range(40), 5)])
    one.scheduler.submit([ask(range(4), 5)])
    assert one.turn() == [{1: 1, 2: 15}]
    assert one.turn() == [{1: 1, 2: 15}]
    assert one.turn() == [{1: 1, 2: 10, 3: 4}]
    assert one.turn() == [{1: 1, 2: 1, 3: 1}]


def test_one_node_keeps_its_batch_whole(bench, ask):
    one = bench()
    for number in range(6):
        one.scheduler.submit([ask([number, 1], 9)])
    assert one.fill() == [dict.fromkeys(range(1, 7), 2)]
    assert one.turn() == [dict.fromkeys(range(1, 7), 1)]


def test_decodes_spread_over_the_steps_in_flight(bench, ask):
    three = bench(depth=3, max_rows=256)
    for number in range(8):
        three.scheduler.submit([ask([number, 1], 30)])
    three.fill()
    for _ in range(6):
        three.turn()
    assert sorted(len(step.runs) for step in three.steps) == [2, 3, 3]
    carried = [run.sequence for step in three.steps for run in step.runs]
    assert sorted(carried) == list(range(1, 9))


def test_chunks_of_a_long_prompt_follow_each_other_through_the_stages(bench, ask):
    three = bench(depth=3, max_rows=192)
    three.scheduler.submit([ask(range(160), 3)])
    assert three.fill() == [{1: 64}, {1: 64}, {1: 32}]
    assert [run.outputs for step in three.steps for run in step.runs] == [Outputs.NONE, Outputs.NONE, Outputs.LAST]


def test_scored_prompts_are_scored_across_the_ends_of_chunks(bench, ask):
    one = bench(max_rows=6)
    one.scheduler.submit([ask(range(10, 20), 0, score=True)])
    one.fill()
    (run,) = one.steps[0].runs
    assert (run.outputs, run.follows) == (Outputs.ALL, 16)
    one.turn()
    (run,) = one.steps[0].runs
    assert (run.outputs, run.follows, run.tokens) == (Outputs.ALL, -1, [16, 17, 18, 19])
    (delivery,) = one.answer()
    assert [score.logprob for score in delivery.drawn.prompt] == [-float(token) for token in range(11, 20)]
    assert (delivery.drawn.token, delivery.drawn.finish) == (None, "length")


def test_choices_share_the_full_blocks_of_their_prompt(bench, ask):
    one = bench()
    prompt = list(range(10))
    one.scheduler.submit([ask(prompt, 4, stream) for stream in range(3)])
    assert one.fill() == [{1: 10}]
    leader = one.steps[0].runs[0].blocks
    assert one.turn() == [{1: 1, 2: 2, 3: 2}]
    for run in one.steps[0].runs[1:]:
        assert run.position == 8
        assert run.history == prompt[:8]
        assert run.blocks[:2] == leader[:2]
        assert run.blocks[2] != leader[2]


def test_of_equal_choices_the_next_leads_when_the_first_is_cancelled(bench, ask):
    one = bench(max_rows=6)
    one.scheduler.submit([ask(range(10), 4, stream) for stream in range(3)])
    assert one.fill() == [{1: 6}]
    one.scheduler.cancel(1)
    assert one.turn() == [{2: 6}]
    assert one.turn() == [{2: 4}]
    assert one.turn() == [{2: 1, 3: 2}]


def test_a_cancelled_choice_does_not_start_when_the_prompt_is_ready(bench, ask):
    one = bench()
    one.scheduler.submit([ask(range(10), 4, stream) for stream in range(3)])
    one.fill()
    one.scheduler.cancel(2)
    assert one.scheduler.sequences() == [1, 3]
    assert one.turn() == [{1: 1, 3: 2}]


def test_the_first_choice_may_end_with_the_result_that_starts_the_others(bench, ask):
    one = bench()
    prompt = list(range(10))
    one.scheduler.submit([ask(prompt, 1, stream) for stream in range(2)])
    one.fill()
    leader = one.steps[0].runs[0].blocks
    (delivery,) = one.answer()
    assert (delivery.sequence, delivery.drawn.finish) == (1, "length")
    step = one.send()
    assert (step.dropped, step.runs[0].blocks[:2], step.runs[0].history) == ([1], leader[:2], prompt[:8])
    (delivery,) = one.answer()
    assert (delivery.sequence, delivery.drawn.finish) == (2, "length")
    assert one.scheduler.kv_used == 0.0


def test_prompts_that_differ_share_nothing(bench, ask):
    one = bench(max_rows=32)
    one.scheduler.submit([ask(range(10), 4), ask(range(1, 11), 4), ask(range(10), 5)])
    one.scheduler.submit([ask(range(10), 4)])
    assert one.fill() == [{1: 10, 2: 10, 3: 10, 4: 2}]


def test_an_end_token_is_delivered_and_ends(bench, ask, paper):
    one = bench()
    end = paper.next_token([1, 2], 0)
    one.scheduler.submit([ask([1, 2], 9, ends=[end])])
    one.fill()
    (delivery,) = one.answer()
    assert (delivery.drawn.token, delivery.drawn.finish) == (end, "stop")
    assert one.scheduler.sequences() == []


def test_what_ended_is_dropped_with_the_next_step_even_if_it_carries_nothing(bench, ask):
    one = bench()
    one.scheduler.submit([ask([1, 2], 1)])
    one.fill()
    one.answer()
    step = one.send()
    assert (step.runs, step.dropped) == ([], [1])
    one.answer()
    assert one.send() is None
    assert one.scheduler.kv_used == 0.0


def test_a_cancelled_sequence_frees_its_blocks_when_its_step_is_back(bench, ask):
    one = bench()
    one.scheduler.submit([ask(range(20), 9)])
    one.fill()
    one.scheduler.cancel(1)
    assert one.scheduler.kv_used > 0.0
    assert one.answer() == []
    assert one.scheduler.kv_used == 0.0
    assert one.send().dropped == [1]


def test_only_what_can_get_all_its_blocks_is_admitted_and_nobody_passes(bench, ask):
    one = bench(kv_blocks=10)
    one.scheduler.submit([ask(range(8), 17)])  # 6 blocks
    one.scheduler.submit([ask(range(8), 20)])  # 7 blocks: waits
    one.scheduler.submit([ask(range(4), 1)])  # would fit, but came later
    assert one.fill() == [{1: 8}]
    assert (one.scheduler.running, one.scheduler.waiting) == (1, 2)
    one.scheduler.cancel(1)
    assert one.turn() == [{2: 8, 3: 4}]


def test_what_can_never_fit_or_finds_a_full_queue_is_refused(bench, ask):
    one = bench(kv_blocks=4, context=30, max_waiting=2)
    with pytest.raises(NeverFits, match="the context is 30"):
        one.scheduler.submit([ask(range(20), 11)])
    with pytest.raises(NeverFits, match="holds 16"):
        one.scheduler.submit([ask([1], 2), ask(range(10), 8)])
    assert one.scheduler.waiting == 0
    one.scheduler.submit([ask(range(10), 7), ask([1], 2)])
    with pytest.raises(QueueFull, match="2 requests wait"):
        one.scheduler.submit([ask([1], 1)])


@pytest.mark.parametrize("depth", [1, 2])
def test_prompts_get_on_however_many_decode(bench, ask, depth):
    crowd = bench(depth=depth, max_rows=4, kv_blocks=400)
    for number in range(20):
        crowd.scheduler.submit([ask([number], 120)])
    crowd.fill()
    for _ in range(40):
        crowd.turn()
    assert crowd.scheduler.running == 4 * depth
    decoding = {run.sequence for step in crowd.steps for run in step.runs if run.position}
    assert decoding == set(range(1, 4 * depth + 1))


def test_a_missing_or_failed_outcome_ends_only_that_sequence(bench, ask):
    one = bench()
    one.scheduler.submit([ask([1], 5)])
    one.scheduler.submit([ask([2], 5)])
    one.fill()
    step = one.steps.pop(0)
    deliveries = one.scheduler.apply(one.route.run(step, failing={1}))
    assert [delivery.failure for delivery in deliveries] == ["its logits are not numbers", ""]
    assert one.fill() == [{2: 1}]
    assert one.steps[0].dropped == [1]


@pytest.mark.parametrize("outcomes", [[], [Outcome(1, -1)]])
def test_an_answer_without_a_token_ends_the_sequence(bench, ask, outcomes):
    one = bench()
    one.scheduler.submit([ask([1], 5)])
    one.fill()
    (delivery,) = one.scheduler.apply(Result(1, outcomes, []))
    assert "gave no answer" in delivery.failure
    assert (one.scheduler.sequences(), one.scheduler.kv_used) == ([], 0.0)


def test_a_failed_chunk_ends_a_scored_prompt_once_its_other_chunks_are_back(bench, ask):
    two = bench(depth=2, max_rows=64)
    two.scheduler.submit([ask(range(80), 0, score=True)])
    assert two.fill() == [{1: 64}, {1: 16}]
    (delivery,) = two.scheduler.apply(Result(1, [Outcome(1, -1, error="its logits are not numbers")], []))
    assert delivery.failure == "its logits are not numbers"
    assert two.scheduler.kv_used > 0.0
    two.steps.clear()
    assert two.scheduler.apply(Result(2, [], [])) == []
    assert (two.scheduler.sequences(), two.scheduler.kv_used) == ([], 0.0)


def test_cancelling_twice_or_what_is_unknown_changes_nothing(bench, ask):
    one = bench()
    one.scheduler.submit([ask([1], 5), ask([2], 5)])
    one.scheduler.cancel(2)
    one.scheduler.cancel(2)
    one.scheduler.cancel(99)
    assert (one.scheduler.sequences(), one.scheduler.next_number) == ([1], 3)
    assert one.fill() == [{1: 1}]


def test_an_answer_to_no_step_is_refused(bench):
    with pytest.raises(KeyError):
        bench().scheduler.apply(Result(1, [], []))
