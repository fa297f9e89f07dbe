"""What follows from the times that requests take: figures that were measured again, and a better plan."""

from __future__ import annotations

import contextlib

from potluck.coordinator.epochs import Epochs
from potluck.coordinator.measurements import Measurements
from potluck.coordinator.recovery import Recovery
from potluck.coordinator.review import Review
from potluck.coordinator.serving import Observer
from potluck.planner.fleet import Fleet


class Improvement:
    """Takes over what the review finds. `kept` is where figures are kept that no longer hold, if anywhere."""

    def __init__(self, review: Review, epochs: Epochs, recovery: Recovery, kept: Measurements | None) -> None:
        self._review, self._epochs, self._recovery, self._kept = review, epochs, recovery, kept

    def look(self, observer: Observer) -> None:
        """Hold the latest requests against predictions; serve by a better plan once no request runs."""
        found = self._review.look(observer)
        if found is not None:
            self._take_over(found)
        if self._review.better is not None and self._epochs.end_idle(
            "a better plan is being loaded; send the request again"
        ):
            self._recovery.change(*self._review.better, observer)

    def _take_over(self, fleet: Fleet) -> None:
        """What nodes measured last counts for the next plan; later commands measure them, too."""
        self._epochs.rest_on(fleet)
        if self._kept is not None:
            # A disk that is full is no reason to stop serving.
            with contextlib.suppress(OSError):
                self._kept.forget(*(node.name for node in fleet.nodes))
