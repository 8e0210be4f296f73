"""One training run from its description, as the command line and studies start it.

Importing this package imports `TrainConfig` alone. The other names need torch and are imported on
first use, so that a description can be read and its data checked before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rankwright.job.config import TrainConfig

if TYPE_CHECKING:
    from rankwright.core.describe import build_method
    from rankwright.job.adapter import load_adapted, load_adapter
    from rankwright.job.folder import RunFolder
    from rankwright.job.job import Job
    from rankwright.job.models import load_base
    from rankwright.job.result import RunResult
    from rankwright.job.run import set_up, train

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
    "Job": "rankwright.job.job",
    "RunFolder": "rankwright.job.folder",
    "RunResult": "rankwright.job.result",
    "build_method": "rankwright.core.describe",
    "load_adapted": "rankwright.job.adapter",
    "load_adapter": "rankwright.job.adapter",
    "load_base": "rankwright.job.models",
    "set_up": "rankwright.job.run",
    "train": "rankwright.job.run",
}
"""The module of every name that needs torch."""

if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        importlib.import_module("rankwright.methods")  # registers every method
        return getattr(importlib.import_module(_HOMES[name]), name)
