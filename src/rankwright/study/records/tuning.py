"""Typed records of tuning: the outcome of a trial, a trial, a finished search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rankwright.study.records.json_record import Record


@dataclass(frozen=True, kw_only=True)
class TrialOutcome(Record):
    """What a trial gave.

    Attributes:
        value: The primary metric on the tuning rows.
        passes: Passes that it took.
        seconds: Wall time that it took.
    """

    value: float
    passes: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of tuning.

    Attributes:
        number: Its number, from 0.
        parameters: What was tried: fields of the method, and of `TrainConfig` such as
            `learning_rate`, by name.
        value: The primary metric on the tuning rows; None where the trial failed.
        state: How it ended.
        passes: Passes that it took.
        seconds: Wall time that it took.
        error: Why it failed.
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
    """The search for one method's hyperparameters on one task.

    Attributes:
        task: The task.
        label: The method.
        metric: The primary metric.
        greater_is_better: Whether it is to be large.
        space: What was searched, by name, in words such as "log 1e-4 to 1e-2" or "4, 8, 16".
        trials: Every trial, by number.
        best: Parameters of the best complete trial; those of all reported runs.
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
