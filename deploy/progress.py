"""What the terminal shows while a deployment starts and serves: phases, the plan, bars while loading, then one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.spinner import Spinner
from rich.text import Text

from potluck.coordinator.accuracy import Comparison, Figure
from potluck.coordinator.generation import EngineStatus
from potluck.coordinator.remeasure import Outcome
from potluck.coordinator.report import comparison_report, outcome_report
from potluck.deploy.accuracy_text import accuracy_table, outcome_lines, remeasuring_text
from potluck.deploy.console import ERR
from potluck.deploy.plan_data import plan_report
from potluck.deploy.tables import plan_table
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.plan import Plan
from potluck.proto import cluster_pb2 as pb


class TerminalProgress:
    """An `Observer` of a deployment for people. Phases and bars are live; the plan and losses stay on the screen."""

    def __init__(self, console: Console = ERR, show_plan: bool = True) -> None:
        self._console, self._show_plan = console, show_plan
        self._bars = Progress(
            TextColumn("  {task.fields[node]:<14}"),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[activity]}"),
        )
        self._tasks: dict[NodeName, TaskID] = {}
        self._what = ""
        self._live: Live | None = None
        self._begun = time.monotonic()
        self.phases: list[tuple[str, float]] = []

    def phase(self, what: str) -> None:
        """Something that takes a while begins; what was before is over."""
        self._end_phase()
        self._what, self._begun = what, time.monotonic()
        if self._live is None and self._console.is_terminal:
            self._live = Live(get_renderable=self._picture, console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        elif not self._console.is_terminal:
            self._console.print(f"{what} ...", highlight=False)

    def planned(self, plan: Plan, fleet: Fleet) -> None:
        """Show the plan; loading begins."""
        if self._show_plan:
            self._console.print(plan_table(plan, fleet))
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks = {node: self._bars.add_task("", total=None, node=node, activity="waiting") for node in plan.nodes}
        self.phase("loading")

    def loading(self, node: NodeName, progress: pb.LoadProgress) -> None:
        """Move a node's bar."""
        task = self._tasks.get(node)
        if task is not None:
            activity = "ready" if progress.ready else progress.activity
            self._bars.update(
                task, completed=progress.bytes_done, total=progress.bytes_total or None, activity=activity
            )

    def serving(self) -> None:
        """Loading is over."""
        self.close()
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks = {}

    def lost(self, node: NodeName | None, reason: str) -> None:
        """Say what was lost; it stays on the screen."""
        what = f"node [bold]{node}[/bold] failed" if node else "the fleet failed"
        self._console.print(f"[yellow]{what}[/yellow]: {Text(reason).plain}; planning anew", highlight=False)

    def spare_lost(self, node: NodeName, reason: str) -> None:
        """Say that a node is missing for the next plan; it stays on the screen."""
        told = f"node [bold]{node}[/bold] is gone[/yellow]: {Text(reason).plain}; it held nothing, serving goes on"
        self._console.print(f"[yellow]{told}", highlight=False)

    def refused(self, reason: str) -> None:
        """Say that nothing can be served any more."""
        self.close()
        self._console.print(f"[red]cannot serve[/red]: {reason}; requests get 503", highlight=False)

    def compared(self, comparison: Comparison) -> None:
        """A small table; it stays on the screen."""
        self._console.print(accuracy_table(comparison_report(comparison)))

    def remeasuring(self, cause: str, figure: Figure) -> None:
        """See Observer."""
        self._console.print(f"[yellow]{remeasuring_text(cause, asdict(figure))}[/yellow]", highlight=False)

    def remeasured(self, outcome: Outcome, described: bool) -> None:
        """See Observer."""
        for line in outcome_lines(outcome_report(outcome), described):
            self._console.print(line, highlight=False, markup=False)

    def close(self) -> None:
        """Leave the screen as it is."""
        self._end_phase()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _end_phase(self) -> None:
        if self._what:
            self.phases.append((self._what, time.monotonic() - self._begun))
            self._what = ""

    def _picture(self) -> RenderableType:
        spinner = Spinner("dots", text=f"{self._what} {time.monotonic() - self._begun:.1f} s")
        return Group(spinner, self._bars) if self._tasks else spinner


class JsonProgress:
    """An `Observer` for programs: one JSON object a line on standard output."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def say(self, event: str, **facts: object) -> None:
        """One line."""
        line = {"event": event, "seconds": round(time.monotonic() - self._begun, 3), **facts}
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        sys.stdout.flush()

    def phase(self, what: str) -> None:
        """See Observer."""
        self.say("phase", what=what)

    def planned(self, plan: Plan, fleet: Fleet) -> None:
        """See Observer."""
        self.say("planned", plan=plan_report(plan, fleet))

    def loading(self, node: NodeName, progress: pb.LoadProgress) -> None:
        """Only the end of a node's loading is worth a line."""
        if progress.ready:
            self.say("loaded", node=node, weight_bytes=progress.weight_bytes, kv_bytes=progress.kv_bytes)

    def serving(self) -> None:
        """See Observer."""
        self.say("serving")

    def lost(self, node: NodeName | None, reason: str) -> None:
        """See Observer."""
        self.say("lost", node=node, reason=reason)

    def spare_lost(self, node: NodeName, reason: str) -> None:
        """See Observer."""
        self.say("spare_lost", node=node, reason=reason)

    def refused(self, reason: str) -> None:
        """See Observer."""
        self.say("refused", reason=reason)

    def compared(self, comparison: Comparison) -> None:
        """See Observer."""
        self.say("compared", **comparison_report(comparison))

    def remeasuring(self, cause: str, figure: Figure) -> None:
        """See Observer."""
        self.say("remeasuring", cause=cause, **asdict(figure))

    def remeasured(self, outcome: Outcome, described: bool) -> None:
        """See Observer."""
        self.say("remeasured", described=described, **outcome_report(outcome))


class StatusLine:
    """One line that says what the fleet does; quiet where the output is not a terminal."""

    def __init__(self, look: Callable[[], EngineStatus], console: Console = ERR) -> None:
        self._live = Live(
            get_renderable=lambda: status_text(look()), console=console, transient=True, refresh_per_second=1
        )
        self._shown = console.is_terminal

    def __enter__(self) -> StatusLine:
        """Begin."""
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End and wipe the line."""
        if self._shown:
            self._live.stop()


def status_text(status: EngineStatus) -> Text:
    """`12.3 tok/s · 2 running · 0 waiting · KV 4 % · desktop 61/30/9 ...` (compute/wait/transfer in percent)."""
    if not status.ready:
        return Text(f"not serving: {status.reason}", style="red")
    line = Text(f"{status.tokens_per_second:6.1f} tok/s · {status.running} running · {status.waiting} waiting")
    line.append(f" · KV {status.kv_used:.0%}")
    for node in status.nodes:
        line.append(f" · {node.node} ", style="bold" if node.alive else "red strike")
        line.append(f"{node.compute:.0%} compute {node.wait:.0%} wait {node.transfer:.0%} transfer", style="dim")
        if node.sums:
            line.append(f" {node.sums:.0%} sums", style="dim")
    return line
