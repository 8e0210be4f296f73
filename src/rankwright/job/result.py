"""The outcome of a run, and the versions of the packages that computed it."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

from rankwright.training.cost import Cost

PACKAGES = ("rankwright", "torch", "transformers", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run.

    Attributes:
        method: Name of the method.
        task: Name of the task.
        model: Name of the model.
        seed: The run's seed.
        primary_metric: The metric that the run is judged by.
        before: Metrics on the validation rows with the untrained adapter, which is the base model.
        after: Metrics on the validation rows after training.
        test: Metrics on the test rows after training; empty without test rows.
        train_rows: Number of rows trained on.
        cost: The cost of training.
        seconds: Wall time from start to end, including evaluation. For a resumed run it covers all
            its processes, without the time that a crash undid.
        versions: Package versions by name.
        interrupted: Whether SIGTERM, or Ctrl-C on the command line, stopped the run; `after` is
            empty then.
        evaluation_seconds: Wall time of the evaluations during training; included in `seconds`, not
            in `cost`.
    """

    method: str
    task: str
    model: str
    seed: int
    primary_metric: str
    before: dict[str, float]
    after: dict[str, float]
    test: dict[str, float]
    train_rows: int
    cost: Cost
    seconds: float
    versions: dict[str, str]
    interrupted: bool = False
    evaluation_seconds: float = 0.0


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine the numbers."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}
