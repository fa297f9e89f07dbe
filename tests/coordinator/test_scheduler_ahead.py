"""Steps that go out before the tokens they feed are known."""

from potluck.proto.step import DRAWN


def tokens_of(step):
    return {run.sequence: run.tokens for run in step.runs}


def test_a_step_goes_ahead_of_the_tokens_it_feeds(bench, ask):
    one = bench(ahead=True)
    one.scheduler.submit([ask([1, 2, 3], 4)])
    assert one.fill() == [{1: 3}], "a prompt is waited for"
    (first,) = one.answer()
    one.fill()
    assert [tokens_of(step) for step in one.steps] == [{1: [first.drawn.token]}, {1: [DRAWN]}]
    one.turn()
    assert [tokens_of(step) for step in one.steps] == [{1: [DRAWN]}, {1: [DRAWN]}]
    one.turn()
    assert len(one.steps) == 1, "beyond the last token nothing is computed"
    (last,) = one.answer()
    assert last.drawn.finish == "length" and one.scheduler.kv_used == 0.0


def test_what_goes_ahead_of_an_end_is_waited_for_and_told_to_nobody(bench, ask, paper):
    end = paper.continuation(ask([1, 2, 3], 2))[0][1]
    one = bench(ahead=True)
    one.scheduler.submit([ask([1, 2, 3], 9, ends=[end])])
    one.fill(), one.turn()
    (ended,) = one.answer()
    assert ended.drawn.finish == "stop" and one.scheduler.kv_used > 0.0 and one.scheduler.unfinished == 0
    assert one.fill() == [] and one.answer() == []
    assert (one.scheduler.sequences(), one.scheduler.kv_used) == ([], 0.0)
    assert one.send().dropped == [1]


def test_nothing_goes_ahead_of_a_prompt_that_waits(bench, ask):
    one = bench(ahead=True)
    one.scheduler.submit([ask([1, 2, 3], 9)])
    one.fill(), one.turn()
    one.scheduler.submit([ask([4, 5], 9)])
    assert one.turn() == []
    assert one.turn() == [{1: 1, 2: 2}]
    assert one.turn() == [{1: 1, 2: 1}, {1: 1, 2: 1}]
