"""Simulates a plan: every hop, sum and read, and several requests at once.

What is simplified: KV is counted in tokens instead of blocks; rows of a step attend to as much as they do on average; a
stage is over for all members when it is over for the slowest; announcements and results take no bandwidth; a node's
links do not share its port but while it sends one thing to several.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from potluck.models.spec import ModelSpec
from potluck.planner.fleet import Fleet
from potluck.planner.goal import Goal
from potluck.planner.group_sums import Setting
from potluck.planner.memory import goes_ahead, steps_at_once, stream_budgets
from potluck.planner.plan import Plan, Purpose, Route
from potluck.planner.simulator.clock import Clock
from potluck.planner.simulator.line import Line, least_pending
from potluck.planner.simulator.load import Load
from potluck.planner.simulator.meter import Meter
from potluck.planner.simulator.packing import Packer, Sequence
from potluck.planner.simulator.queues import Queues
from potluck.planner.simulator.results import Served, Simulation, percentiles
from potluck.planner.simulator.wires import Wires
from potluck.planner.simulator.world import World

__all__ = ["Simulation", "simulate"]


def simulate(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal, load: Load) -> Simulation:
    """What the fleet does with a load. The same arguments always give the same answer.

    Requests go to the serving route with the least to do. Of the goal, `chunk` and `software` count.

    Raises:
        ValueError: no route serves, a request could not run even alone, or see `transfers.check_replicated`.
    """
    _check(plan, load)
    meter, setting = Meter(), Setting(fleet, spec, plan.dtype, goal.software)
    world = World(Clock(), meter, Queues(), Wires(fleet, goal.software.frame, meter))
    routes = [route for route in plan.routes if route.purpose is Purpose.SERVE]
    lines = [_line(world, replace(plan, routes=(route,)), setting, goal.chunk) for route in routes]
    sequences = [Sequence(number, arrival) for number, arrival in enumerate(load.arrivals)]
    for sequence in sequences:
        world.clock.at(sequence.arrival.at, partial(_submit, lines, sequence, load))
    world.clock.run(lambda: meter.finished < len(sequences))
    return _found(world, [Served(one.arrival.at, tuple(one.tokens_at)) for one in sequences])


def _check(plan: Plan, load: Load) -> None:
    if not any(route.purpose is Purpose.SERVE for route in plan.routes):
        raise ValueError("the plan has no route that serves; nothing could be simulated")
    longest = max(Sequence(0, arrival).kv_tokens for arrival in load.arrivals)
    if longest > plan.kv_tokens:
        raise ValueError(f"a request of {longest} tokens never fits: the plan keeps KV for {plan.kv_tokens}")


def _line(world: World, plan: Plan, setting: Setting, most_rows: int) -> Line:
    route: Route = plan.routes[0]
    depth = steps_at_once(plan)
    line = Line(world, route, setting, (Packer(plan.kv_tokens, most_rows, depth), depth, goes_ahead(plan)))
    line.stream(stream_budgets(plan, setting.fleet, setting.spec))
    return line


def _submit(lines: list[Line], sequence: Sequence, load: Load) -> None:
    least_pending(lines).submit(sequence, sequence.number == load.watched)


def _found(world: World, served: list[Served]) -> Simulation:
    start, end = min(one.at for one in served), max(one.tokens_at[-1] for one in served)
    seconds = end - start
    return Simulation(
        requests=tuple(served),
        seconds=seconds,
        tokens_per_second=sum(len(one.tokens_at) for one in served) / seconds if seconds else 0.0,
        time_to_first_token=percentiles(one.time_to_first_token for one in served),
        time_per_token=percentiles(one.time_per_token for one in served if one.time_per_token is not None),
        busy={name: taken / seconds for name, taken in world.meter.busy.items() if taken and seconds},
        timeline=tuple(sorted(world.meter.timeline, key=lambda span: (span.start, span.end, span.resource))),
        events=world.clock.events,
    )
