"""Loads the C++ extension, if this installation has it and it is of this version. Loads no torch."""

from __future__ import annotations

from types import ModuleType

try:
    from potluck.kernels import _native as _loaded  # type: ignore[attr-defined]
except ImportError:
    _loaded = None

_VERSION = 5  # as in csrc/module.cpp; one more whenever what its functions take changes
native: ModuleType | None = _loaded if getattr(_loaded, "VERSION", 0) == _VERSION else None
# Whether products run on vectors: in plain C++ torch multiplies plain numbers faster.
VECTORS: bool = native is not None and native.backend("") != "generic"
