"""From what was asked on the command line to a fleet, a goal and workers to start. Shared by serve, run and plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from potluck.coordinator.deployment import ModelFiles, Serving
from potluck.coordinator.fabric import Fabric, LocalFabric, WorkerLaunch
from potluck.coordinator.measurements import Measurements
from potluck.coordinator.ray_fabric import RayFabric
from potluck.deploy.emulate import Emulation, emulate, time_scale
from potluck.deploy.fleet_files import read_fleet
from potluck.deploy.given_plan import check_wish, read_plan
from potluck.deploy.machine import measure_machine
from potluck.deploy.wish import Wish, context_of, goal_of, wished_spec
from potluck.models.open import open_checkpoint, read_spec
from potluck.models.source import ModelPath
from potluck.models.spec import ModelSpec
from potluck.models.tokenizer import Tokenizer, load_tokenizer
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.goal import Goal
from potluck.planner.solve import solve
from potluck.planner.validate import validate
from potluck.proto.shaper import Shape


def model_files(found: ModelPath) -> ModelFiles:
    """Spec and content digest of a model on disk.

    Raises:
        CheckpointError, UnsupportedModel: it cannot be served.
    """
    return ModelFiles(read_spec(found.path), str(found.path), open_checkpoint(found.path).fingerprint)


@dataclass(frozen=True, slots=True)
class EmulatedFleet:
    """A described fleet made ready to be imitated on this machine."""

    fleet: Fleet
    scale: float
    emulations: dict[NodeName, Emulation]

    def launches(self, cache: Path) -> list[WorkerLaunch]:
        """How to start the workers. Each has a cache of its own, as real machines do."""
        return [
            WorkerLaunch(
                node=name,
                cache=str(cache / "emulated" / self.fleet.name / name),
                memory=emulation.memory,
                emulate=emulation.to_json(),
                log=str(cache / "logs" / f"{name}.log"),
            )
            for name, emulation in self.emulations.items()
        ]

    def engine_links(self) -> dict[str, Shape]:
        """Links from the node where requests arrive, as they are emulated."""
        return {
            node: Shape(link.latency, link.bandwidth) for node, link in self.emulations[self.fleet.engine].links.items()
        }


def emulated_fleet(reference: str, cache: Path, spec: ModelSpec, goal: Goal) -> EmulatedFleet:
    """Read a fleet and work out what imitating it takes here, for a model.

    Raises:
        FleetFileError, CalibrationError: one line each.
    """
    fleet = read_fleet(reference)
    machine = measure_machine(cache, goal.dtype, spec.encodings.values())
    scale = time_scale(fleet, machine, (spec, goal.dtype), goal.chunk)
    return EmulatedFleet(fleet, scale, emulate(fleet, scale))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that serving a model takes, worked out and checked, with nothing started yet."""

    name: str
    path: Path
    cache: Path
    files: ModelFiles
    serving: Serving
    fabric: Fabric
    scale: float = 1.0
    chat_template: str | None = None

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            TokenizerError: it is damaged or of an unsupported kind.
        """
        return load_tokenizer(self.path, self.cache, self.chat_template)

    def with_template(self, path: Path | None) -> Prepared:
        """The same with another chat template.

        Raises:
            OSError, ValueError: the file cannot be read as text.
        """
        return replace(self, chat_template=path.read_text("utf-8")) if path else self


@dataclass(frozen=True, slots=True)
class Where:
    """Which machines: an emulated fleet (on a Ray of its own here), a Ray cluster, or this machine.

    `local` starts the workers without Ray. `threads` is for real nodes, 0 for one per physical core; an emulated node
    computes in one thread.
    """

    fleet: str | None
    address: str | None
    local: bool
    cache: Path
    offline: bool = False
    threads: int = 0


def prepare(found: ModelPath, where: Where, wish: Wish, plan_file: Path | None) -> Prepared:
    """Check all that can be checked before anything is started.

    Raises:
        CheckpointError, UnsupportedModel, FleetFileError, CalibrationError, PlanError, DoesNotFit, ValueError: one
            line each.
    """
    files = model_files(found)
    files = replace(files, spec=wished_spec(replace(files.spec, name=found.name), wish))
    goal, context = goal_of(files.spec, found.name, wish), context_of(files.spec, wish)
    given = read_plan(plan_file, files.spec, found.name, where.cache) if plan_file else None
    plan = given.plan if given else None
    check_wish(files.spec, wish, plan)
    if plan:
        goal = replace(goal, dtype=plan.dtype, kv_tokens=plan.kv_tokens)
    emulated = emulated_fleet(where.fleet, where.cache, files.spec, goal) if where.fleet else None
    serving = _serving(goal, context, emulated, wish)
    serving = replace(serving, plan=plan, measurements=measurements_in(where.cache))
    if given and emulated:
        given.check(files.spec, emulated.fleet)
    elif emulated:
        validate(solve(emulated.fleet, files.spec, goal), emulated.fleet, files.spec)
    fabric = fabric_of(where, emulated)
    return Prepared(found.name, found.path, where.cache, files, serving, fabric, emulated.scale if emulated else 1.0)


def measurements_in(cache: Path) -> Measurements:
    """What nodes measured of themselves, as the cache keeps it."""
    return Measurements(cache / "measured.json")


def fabric_of(where: Where, emulated: EmulatedFleet | None) -> Fabric:
    """What starts the workers there."""
    cache = where.cache
    if emulated:
        launches = emulated.launches(cache)
        return LocalFabric(launches) if where.local else RayFabric(None, emulated=launches)
    template = WorkerLaunch("here", str(cache), threads=where.threads, log=str(cache / "logs" / "worker.log"))
    return LocalFabric([template]) if where.local else RayFabric(where.address, template=template)


def _serving(goal: Goal, context: int, emulated: EmulatedFleet | None, wish: Wish) -> Serving:
    if emulated is None:
        return Serving(
            goal,
            context,
            max_rows=wish.max_rows,
            step_seconds=wish.step_seconds,
            wire=wish.wire,
            remeasure_after=wish.remeasure_after,
        )
    return Serving(
        goal,
        context,
        fleet=emulated.fleet,
        links=emulated.engine_links(),
        max_rows=wish.max_rows,
        step_seconds=wish.step_seconds * emulated.scale,
        wire=wish.wire,
        scale=emulated.scale,
        remeasure_after=wish.remeasure_after,
    )
