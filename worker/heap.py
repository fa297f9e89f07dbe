"""Memory that was freed goes back to the system: glibc keeps what it thinks will be wanted again."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect what nobody refers to and hand free pages back, where the C library can (glibc).

    Without it a worker kept 30 MiB after measuring, and 110 MiB after building and releasing a share of SmolLM2, which
    the next plan reckons with. Takes some 10 ms: not for every step.
    """
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
