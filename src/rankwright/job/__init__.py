"""One training run from a description of it: what the command line and a study both start.

Only `TrainConfig` is imported at once. The other names need torch and are imported on first use, so
that a description can be read and its data checked before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rankwright.job.config import TrainConfig

if TYPE_CHECKING:
    from rankwright.core.describe import build_method
    from rankwright.job.adapter import load_adapter
    from rankwright.job.folder import RunFolder
    from rankwright.job.models import load_adapted, load_base
    from rankwright.job.run import Job, RunResult, set_up, train

__all__ = [
    "Job",
    "RunFolder",
    "RunResult",
    "TrainConfig",
    "build_method",
    "load_adapted",
    "load_adapter",
    "load_base",
    "set_up",
    "train",
]

_HOMES = {
    "build_method": "rankwright.core.describe",
    "RunFolder": "rankwright.job.folder",
    "load_adapter": "rankwright.job.adapter",
    **dict.fromkeys(("load_adapted", "load_base"), "rankwright.job.models"),
    **dict.fromkeys(("Job", "RunResult", "set_up", "train"), "rankwright.job.run"),
}

if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        importlib.import_module("rankwright.methods")  # registers every method
        return getattr(importlib.import_module(_HOMES[name]), name)
