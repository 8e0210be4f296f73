"""Typed records of tuning: the outcome of a trial, a trial, a finished search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rankwright.study.records.json_record import Record


@dataclass(frozen=True, kw_only=True)
class TrialOutcome(Record):
    """The result that the process of a trial leaves.

    Attributes:
        value: The primary metric on the tuning rows.
        passes: Forward-and-backward passes of the trial.
        seconds: Wall time of the trial.
    """

    value: float
    passes: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of a search.

    Attributes:
        number: Its number, from 0.
        parameters: The values that were tried, by name: fields of the method, and options of a run
            such as `learning_rate`.
        value: The primary metric on the tuning rows; None for a failed trial.
        state: Whether it has a value.
        passes: Forward-and-backward passes of the trial.
        seconds: Wall time of the trial.
        error: Why it failed; empty for a complete trial.
    """

    number: int
    parameters: dict[str, Any]
    value: float | None
    state: Literal["complete", "failed"]
    passes: float = 0.0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class TuningRecord(Record):
    """The finished search for one method's hyperparameters on one task.

    Attributes:
        task: The task.
        label: The method.
        metric: The primary metric.
        greater_is_better: Whether a larger value of the metric is better.
        space: The search space by name, such as "0.0001 to 0.01, log scale" or "4, 8, 16".
        trials: Every trial, by number.
        best: Parameters of the best complete trial, with which all reported runs are trained.
        best_value: Its value on the tuning rows.
    """

    task: str
    label: str
    metric: str
    greater_is_better: bool
    space: dict[str, str]
    trials: tuple[TrialRecord, ...]
    best: dict[str, Any]
    best_value: float
