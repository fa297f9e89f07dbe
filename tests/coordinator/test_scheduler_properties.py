"""Whatever is submitted, cancelled or fails in whatever order: every sequence gets its own tokens, once, and ends."""

from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from potluck.coordinator.scheduler.scheduler import Limits, NeverFits, QueueFull, Scheduler
from potluck.proto.step import DRAWN


def test_every_sequence_gets_its_own_tokens_once_and_ends(paper):
    class Machine(RuleBasedStateMachine):
        numbers = Bundle("numbers")

        @initialize(
            blocks=st.integers(2, 12),
            size=st.integers(1, 4),
            rows=st.integers(1, 12),
            depth=st.integers(1, 4),
            queue=st.integers(3, 12),
            ahead=st.booleans(),
        )
        def begin(self, blocks, size, rows, depth, queue, ahead):
            self.limits = Limits(blocks, size, 30, rows, 1 if ahead else depth, queue, ahead)
            self.scheduler = Scheduler(self.limits, first_number=5)
            self.route = paper.PaperRoute(self.limits)
            self.flying = deque()
            self.asked, self.got, self.scores, self.finish = {}, {}, {}, {}
            self.cancelled, self.failed, self.alone, self.first = set(), set(), set(), []

        @rule(
            target=numbers,
            prompt=st.lists(st.integers(0, 3), min_size=1, max_size=14),
            sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
            score=st.booleans(),
            ends=st.sampled_from([(), range(0, 50, 3)]),
        )
        def submit(self, prompt, sizes, score, ends):
            choices = [paper.generation(prompt, size, stream, score, ends) for stream, size in enumerate(sizes)]
            waiting = self.scheduler.waiting
            try:
                numbers = self.scheduler.submit(choices)
            except NeverFits:
                longest = len(prompt) + max(sizes)
                assert longest > 30 or longest - 1 > self.limits.kv_blocks * self.limits.block_size or not max(sizes)
                return multiple()
            except QueueFull:
                assert waiting + len(sizes) > self.limits.max_waiting
                return multiple()
            self.asked.update(zip(numbers, choices, strict=True))
            if len(numbers) == 1:
                self.alone.add(numbers[0])
            return multiple(*numbers)

        @rule(number=consumes(numbers))
        def cancel(self, number):
            self.scheduler.cancel(number)
            if number not in self.finish:
                self.cancelled.add(number)

        @rule()
        def send(self):
            step = self.scheduler.next_step()
            if step is None:
                return
            in_flight = [run for other in self.flying for run in other.runs]
            for run in step.runs:
                asked = self.asked[run.sequence]
                if run.position >= len(asked.prompt):
                    before = [other for other in in_flight if other.sequence == run.sequence]
                    assert len(before) == (run.tokens == [DRAWN]), "a decode overtakes its token"
                if run.sequence in self.alone and run.sampling:
                    self.first.append(run.sequence)
            self.flying.append(step)

        @rule(fails=st.integers(0, 9))
        def answer(self, fails):
            if not self.flying:
                return
            step = self.flying.popleft()
            failing = {run.sequence for run in step.runs if fails == 0}
            for delivery in self.scheduler.apply(self.route.run(step, failing)):
                number = delivery.sequence
                assert number not in self.finish | dict.fromkeys(self.failed | self.cancelled), "told after its end"
                if delivery.failure:
                    self.failed.add(number)
                    continue
                self.scores.setdefault(number, []).extend(delivery.drawn.prompt)
                if delivery.drawn.token is not None:
                    self.got.setdefault(number, []).append(delivery.drawn.token)
                if delivery.drawn.finish:
                    self.finish[number] = delivery.drawn.finish

        @invariant()
        def bounded(self):
            if hasattr(self, "scheduler"):
                assert len(self.flying) == self.scheduler.steps_in_flight <= self.limits.depth + self.limits.ahead
                assert 0.0 <= self.scheduler.kv_used <= 1.0
                assert self.scheduler.running <= self.limits.max_running
                assert self.first == sorted(self.first), "a later request started before an earlier one"

        def teardown(self):
            if not hasattr(self, "scheduler"):
                return
            for _ in range(40 * (len(self.asked) + 1)):
                self.send()
                self.answer(1)
            assert not self.flying and self.scheduler.next_step() is None
            assert not self.scheduler.sequences() and not self.scheduler.running and not self.scheduler.waiting
            assert self.scheduler.kv_used == 0.0
            assert self.scheduler._pool.promise(self.limits.kv_blocks), "blocks stayed promised to what has ended"
            assert not self.route.held, "a sequence was never dropped"
            for number in self.asked.keys() - self.cancelled - self.failed:
                tokens, why = paper.continuation(self.asked[number])
                assert (self.got.get(number, []), self.finish[number]) == (tokens, why)
                prompt = self.asked[number].prompt
                expected = [-float(token) for token in prompt[1:]] if self.asked[number].score_prompt else []
                assert [score.logprob for score in self.scores[number]] == expected

    run_machine(
        Machine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("depth", [1, 3])
def test_a_finished_leader_leaves_room_for_its_larger_choice(paper, depth):
    # Blocks that waiting choices share count against the pool: with the leader's small reservation alone, the two
    # larger ones could wait for each other's blocks for ever.
    limits = Limits(kv_blocks=6, block_size=2, context=64, max_rows=32, depth=depth)
    scheduler, route = Scheduler(limits), paper.PaperRoute(limits)
    for prompt in ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]):
        scheduler.submit([paper.generation(prompt, 1), paper.generation(prompt, 7, stream=1)])
    ended = 0
    for _ in range(60):
        step = scheduler.next_step()
        if step:
            ended += sum(delivery.drawn.finish is not None for delivery in scheduler.apply(route.run(step)))
    assert ended == 4
