"""Decode steps captured in CUDA graphs, one for each range of layers and size of batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial

import torch

from potluck.kernels.gpu.graphs import Capture, CapturedStep, Choices, bucket_for, buckets_up_to
from potluck.worker.batch import Batch
from potluck.worker.gpu.places import StepPlaces
from potluck.worker.layers import Body


class CapturedDecode:
    """Replays steps whose rows are all of different sequences (a `potluck.worker.layers.CapturedSteps`).

    What runs between two exchanges with other nodes is a unit; all units share the places of their inputs.
    """

    def __init__(self, places: StepPlaces, capture: Capture) -> None:
        """`capture`: a CudaCapture, or `call_again` where there is no CUDA."""
        self._places, self._capture = places, capture
        self._buckets = buckets_up_to(places.most)
        self._steps: dict[Hashable, CapturedStep] = {}

    def takes(self, batch: Batch) -> bool:
        """Whether every row is a sequence's only one, and there are not too many."""
        return batch.single and len(batch.slots_T) <= self._places.most

    def run(self, key: Hashable, body: Body, x_TD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What `body` gives for these rows: valid until the next step with this key."""
        if key not in self._steps:
            self._steps[key] = CapturedStep(partial(self._step, body), self._places.buffers, self._capture)
        choices = self._places.choices(batch, bucket_for(len(x_TD), self._buckets))
        return self._steps[key](self._places.rows(x_TD, batch), choices)

    def _step(self, body: Body, inputs: Mapping[str, torch.Tensor], choices: Choices) -> torch.Tensor:
        return body(inputs["x"], self._places.batch(inputs, choices))
