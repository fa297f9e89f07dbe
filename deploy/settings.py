"""The one place where the environment is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CACHE = "POTLUCK_CACHE"
API_KEY = "POTLUCK_API_KEY"
RAY_ADDRESS = "RAY_ADDRESS"
OFFLINE = "HF_HUB_OFFLINE"


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults that a flag overrides.

    Attributes:
        cache: folder for fetched tensors, assembled models, calibration and logs.
        api_key: key that clients must send, None for none.
        ray_address: an existing Ray cluster to use, None to start a local one.
        offline: never ask the Hugging Face hub.
    """

    cache: Path
    api_key: str | None
    ray_address: str | None
    offline: bool


def read_settings() -> Settings:
    """Settings from the environment: POTLUCK_CACHE, POTLUCK_API_KEY, RAY_ADDRESS, HF_HUB_OFFLINE."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Settings(
        cache=Path(os.environ.get(CACHE) or Path(base) / "potluck"),
        api_key=os.environ.get(API_KEY) or None,
        ray_address=os.environ.get(RAY_ADDRESS) or None,
        offline=os.environ.get(OFFLINE, "").lower() in {"1", "true", "yes", "on"},
    )


def quiet_ray() -> None:
    """Ask Ray, before it is imported, for no usage reports, no colours in logs and no hook around drivers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
