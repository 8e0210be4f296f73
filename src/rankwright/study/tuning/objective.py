"""The objective of a search: suggest values, have the trial carried out, note its result."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna

from rankwright.core.search_space import LogRange, OneOf, SearchSpace
from rankwright.errors import MethodError
from rankwright.study.errors import StoppedError, TrialFailedError
from rankwright.study.planning.specs import MethodSpec
from rankwright.study.records.names import run_name
from rankwright.study.records.tuning import TrialOutcome
from rankwright.study.tuning.heartbeats import retry
from rankwright.study.tuning.search_spec import SearchSpec
from rankwright.study.tuning.trials import freeze, place


class TrialRunner(Protocol):
    """Carries trials out; `study.execution` does so with a process for each."""

    @property
    def stopping(self) -> bool:
        """Whether the study was asked to stop."""

    def run(self, folder: Path, task: str, method: MethodSpec) -> TrialOutcome:
        """Carry a trial out.

        Args:
            folder: A folder for its files; one left by an interrupted trial is continued.
            task: Label of the task.
            method: The method with the values of the trial.

        Raises:
            TrialFailedError: The trial has no value.
            StoppedError: The study was asked to stop.
        """


@dataclass(frozen=True)
class Objective:
    """The value of a trial, as Optuna asks for it.

    Attributes:
        spec: The search.
        attempt: Number of the attempt, from 1.
        runner: Carries the trial out.
        notify: Takes a line for the user at the end of every trial.
    """

    spec: SearchSpec
    attempt: int
    runner: TrialRunner
    notify: Callable[[str], None]

    def evaluate(self, trial: optuna.Trial, values: dict[str, Any]) -> float:
        """Carry the trial out with these values, and return its primary metric.

        Raises:
            TrialFailedError: The trial has no value; it counts, with the error as an attribute.
            StoppedError: The study was asked to stop; the trial is enqueued again.
        """
        try:
            value = self._run(trial, values)
        except StoppedError:
            retry(trial.study, freeze(trial))
            raise
        except TrialFailedError as error:
            trial.set_user_attr("error", str(error))
            self._tell(trial, f" failed: {error}")
            raise
        self._tell(trial, f": {self.spec.task_record.metric} {value:.4f}")
        return value

    def _run(self, trial: optuna.Trial, values: dict[str, Any]) -> float:
        folder = self._folder(trial)
        outcome = self.runner.run(folder, self.spec.task, self._method(values))
        trial.set_user_attr("passes", outcome.passes)
        trial.set_user_attr("seconds", outcome.seconds)
        shutil.rmtree(folder)
        if math.isnan(outcome.value):  # Optuna would not count it, and ask for another without end
            raise TrialFailedError(f"{self.spec.task_record.metric} is nan")
        return outcome.value

    def _method(self, values: dict[str, Any]) -> MethodSpec:
        try:
            return self.spec.method.with_values(values)
        except MethodError as error:  # values that the method does not take together
            raise TrialFailedError(str(error)) from error

    def _folder(self, trial: optuna.Trial) -> Path:
        number = place(trial.study, freeze(trial))
        name = run_name(self.spec.task, self.spec.method.label, number)
        suffix = "" if self.attempt == 1 else f"--{self.attempt}"
        return self.spec.plan.folder.path / "tuning" / "trials" / (name + suffix)

    def _tell(self, trial: optuna.Trial, result: str) -> None:
        number = place(trial.study, freeze(trial))
        self.notify(f"trial {number} of {self.spec.method.label} on {self.spec.task}{result}")


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any]:
    """Draw a value for every name of a search space."""
    return {name: _suggest_one(trial, name, choice) for name, choice in space.items()}


def _suggest_one(trial: optuna.Trial, name: str, choice: LogRange | OneOf) -> Any:
    if isinstance(choice, LogRange):
        return trial.suggest_float(name, choice.low, choice.high, log=True)
    return trial.suggest_categorical(name, choice.values)
