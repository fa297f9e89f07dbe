"""Seconds that an operation takes here, as this (emulated) node does it, and what to make of several of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch

from potluck.worker.capacity import usable_cores
from potluck.worker.device import wait_for
from potluck.worker.emulation import DescribedDevice
from potluck.worker.pace import at_least

_LEAST = 5
_PERIODS = 0.3  # seconds: of 100 ms, as the kernel has them unless told, three
_STEADY = 0.05  # of the median: how far apart the quarters of the samples may be


class Work(NamedTuple):
    """An operation, and what it takes a described node: floating-point operations or bytes read, of which format."""

    operation: Callable[[], object]
    flops: float = 0.0
    nbytes: float = 0.0
    encoding: str = ""


def seconds(work: Work, described: DescribedDevice | None, device: torch.device) -> float:
    """Seconds of one execution, begun on an idle device and waited for; as long as the described node takes, if any."""
    needed = described.seconds(work.flops, work.nbytes, work.encoding) if described else 0.0
    wait_for(device)
    begun = time.perf_counter()
    with at_least(needed):
        work.operation()
        wait_for(device)
    return time.perf_counter() - begun


def typical(samples: Iterable[float], budget: float) -> float:
    """The median of samples, of which more are taken while they differ, for at most `budget` seconds together.

    Other programs make some samples longer, so that a mean would be of them, and the least of what seldom happens. But
    where a control group's quota stops this process for a part of every period, what it stops counts: there it is the
    mean, over many periods.

    Raises:
        StatisticsError: there is none.
    """
    taken: list[float] = []
    if is_throttled():
        return statistics.mean(_until(samples, max(budget, _PERIODS)))
    for sample in samples:
        taken.append(sample)
        if sum(taken) >= budget or _is_steady(taken):
            break
    return statistics.median(taken)


def is_throttled() -> bool:
    """Whether a quota leaves less than a core for every thread that computes."""
    return usable_cores() < torch.get_num_threads()


def _until(samples: Iterable[float], budget: float) -> Iterator[float]:
    spent = 0.0
    for sample in samples:
        yield sample
        spent += sample
        if spent >= budget:
            return


def _is_steady(taken: list[float]) -> bool:
    if len(taken) < _LEAST:
        return False
    first, middle, last = statistics.quantiles(taken, n=4)
    return last - first <= _STEADY * middle
