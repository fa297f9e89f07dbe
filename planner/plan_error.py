"""What is wrong with a plan, and where: whoever read it from a file can say the line (`plan_file.line_at`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a plan. Numbers count from 1; what is 0 or empty is not narrowed down.

    Attributes:
        route, stage: which; as words only where there are several routes.
        share: which of the stage's.
        key: the field of the share, or else of the stage.
        routes: how many the plan has.
    """

    route: int = 1
    stage: int = 0
    share: int = 0
    key: str = ""
    routes: int = 1

    def __str__(self) -> str:
        """`stage 2`, or `route 1: stage 2`."""
        words = [f"route {self.route}"] if self.routes > 1 else []
        return ": ".join([*words, *([f"stage {self.stage}"] if self.stage else [])])


class PlanError(ValueError):
    """A plan that no fleet could run, or not this one; one line with the place and the remedy."""

    def __init__(self, message: str, spot: Spot | None = None) -> None:
        """`spot` is where in the plan it is, where that can be told; the message names it, too."""
        super().__init__(message)
        self.spot = spot


def wrong(spot: Spot, message: str) -> PlanError:
    """An error that begins with the place, in words."""
    place = str(spot)
    return PlanError(f"{place}: {message}" if place else message, spot)
