"""A plan that was given instead of being solved: which model it is for, and what it leaves to other options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from potluck.deploy.console import warn
from potluck.deploy.wish import Wish
from potluck.models.checkpoint import CheckpointError
from potluck.models.described import describe
from potluck.models.families import UnsupportedModel
from potluck.models.source import ModelNotFound
from potluck.models.spec import ModelSpec
from potluck.planner.executable import executable_stages
from potluck.planner.fields import shown
from potluck.planner.fleet import Fleet
from potluck.planner.memory import streams
from potluck.planner.plan import Plan
from potluck.planner.plan_file import line_at, plan_from_data
from potluck.planner.validate import PlanError, validate, validate_alone
from potluck.planner.yaml_text import read_yaml

_SIZES = ("vocab", "hidden", "ffn", "heads", "kv_heads", "head_dim")


@dataclass(frozen=True, slots=True)
class GivenPlan:
    """A plan, and the file that it was read from with its data, so that messages say where to look."""

    plan: Plan
    path: Path
    data: object

    def check(self, spec: ModelSpec, fleet: Fleet | None = None) -> None:
        """Refuse what no worker could run for this model, or not over this fleet, before anything is started.

        Raises:
            PlanError: one line with the file, the line where it can be told, and the remedy.
        """
        try:
            validate_alone(self.plan, spec)
            executable_stages(self.plan)
            if fleet is not None:
                validate(self.plan, fleet, spec)
        except PlanError as error:
            line = line_at(self.data, error.spot) if error.spot else 0
            place = f"plan {self.path}: line {line}" if line else f"plan {self.path}"
            raise PlanError(f"{place}: {error}", error.spot) from None


def read_plan(path: Path, spec: ModelSpec, name: str, cache: Path) -> GivenPlan:
    """The plan in a YAML file for the model that is to be served, and under its name.

    Raises:
        PlanError: it cannot be read, it is no plan for this model, or none that workers run.
    """
    try:
        data = read_yaml(path.read_text("utf-8"))
        _check_model(data, spec, name, cache)
        plan = plan_from_data(data, spec)
    except OSError as error:
        raise PlanError(f"plan {path}: {error.strerror}") from None
    except ValueError as error:
        raise PlanError(f"plan {path}: {error}") from None
    # What the file says of speed and reasons was true of the plan and the fleet that it was saved for.
    given = GivenPlan(replace(plan, model=name, prediction=None, reasons={}, proof=None, alternatives=()), path, data)
    given.check(spec)
    return given


def _check_model(data: object, spec: ModelSpec, name: str, cache: Path) -> None:
    """Refuse a plan that names a model of other sizes; another name for the same sizes is only told."""
    named = data.get("model") if isinstance(data, Mapping) else None
    if not isinstance(named, str) or named == name:
        return
    other = _known(named, cache)
    if other and _sizes(other) != _sizes(spec):
        raise PlanError(
            f"it is for model {shown(named)} ({_sizes_text(other)}), not for {name!r} ({_sizes_text(spec)}); make one "
            f"with `cluster plan {name} --save FILE`, or change its line 'model'"
        )
    same = "of the same sizes" if other else "which is not known here"
    warn(f"the plan says model {shown(named)}, {same}; it is taken for {name!r}")


def _known(name: str, cache: Path) -> ModelSpec | None:
    try:
        return describe(name, cache, offline=True).spec
    except (CheckpointError, ModelNotFound, UnsupportedModel):
        return None


def _sizes(spec: ModelSpec) -> tuple[int, ...]:
    return len(spec.layers), *(getattr(spec, name) for name in _SIZES)


def _sizes_text(spec: ModelSpec) -> str:
    return f"{len(spec.layers)} layers, {spec.hidden} wide"


def check_wish(spec: ModelSpec, wish: Wish, plan: Plan | None) -> None:
    """Refuse wishes that the model or a plan made by hand would silently override.

    Raises:
        ValueError: no weight of the model has few bits, but the compute type is made for those.
        PlanError: the plan says otherwise.
    """
    dtype = plan.dtype if plan else wish.dtype
    if dtype in ("quantized", "weight-only") and not spec.encodings:
        raise ValueError(
            f"{spec.name} has no weights of 4 to 8 bits for dtype {dtype}; add --quantize int4 or take bfloat16"
        )
    if plan is None:
        return
    if wish.dtype not in ("auto", plan.dtype):
        raise PlanError(
            f"the plan says dtype {plan.dtype}, --dtype says {wish.dtype}; leave one out or change the plan"
        )
    if wish.quantize != "none" and plan.dtype not in ("quantized", "weight-only"):
        raise PlanError(f"the plan says dtype {plan.dtype}, which keeps no {wish.quantize}; change it to quantized")
    if not wish.streaming and streams(plan):
        raise PlanError("the plan streams layers from disk; leave out --no-streaming or change the plan")
    _check_wire(plan, wish)
    _check_placement(wish)


def _check_wire(plan: Plan, wish: Wish) -> None:
    for number, stage in enumerate(plan.routes[0].stages, 1):
        if stage.is_group and wish.wire == "grpc":
            raise PlanError(
                f"stage {number} is run by {len(stage.nodes)} nodes, whose sums travel over TCP sockets only; "
                f"leave out --wire grpc, or give the stage one node"
            )


def _check_placement(wish: Wish) -> None:
    asked = {
        "--without": bool(wish.without),
        "--share": bool(wish.share),
        "--rounds": wish.rounds != 1,
        "--with": bool(wish.pinned),
        "--goal": wish.aim != "latency",
        "--fewest": wish.fewest,
        "--solver": wish.solver != "exact",
    }
    for option in (option for option, given in asked.items() if given):
        raise PlanError(f"--plan says who holds what, so {option} would change nothing; leave one of them out")
