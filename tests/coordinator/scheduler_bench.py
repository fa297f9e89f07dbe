"""A scheduler whose steps a route on paper runs, for the tests of what goes into a step."""

from potluck.coordinator.scheduler.limits import Limits
from potluck.coordinator.scheduler.scheduler import Scheduler


class Bench:
    """A scheduler and the paper route; steps are kept in flight until they are answered."""

    def __init__(self, paper, **limits):
        self.limits = Limits(**{"kv_blocks": 64, "block_size": 4, "context": 200, "max_rows": 16, "depth": 1} | limits)
        self.scheduler, self.route = Scheduler(self.limits), paper.PaperRoute(self.limits)
        self.steps = []

    def send(self):
        step = self.scheduler.next_step()
        if step:
            self.steps.append(step)
        return step

    def fill(self):
        """Send until enough is in flight; the runs per step as {sequence: rows}."""
        sent = []
        while step := self.send():
            sent.append({run.sequence: len(run.tokens) for run in step.runs})
        return sent

    def answer(self):
        return self.scheduler.apply(self.route.run(self.steps.pop(0)))

    def turn(self):
        self.answer()
        return self.fill()
