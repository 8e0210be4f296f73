"""Progress, learning curve and row-by-row outcomes of a run, for the records of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankwright.job import Job
from rankwright.study.records.examples import Examples
from rankwright.study.records.records import CurvePoint
from rankwright.tasks import METRICS, Outcome
from rankwright.tasks.errors import Where
from rankwright.tasks.metrics import Form
from rankwright.training import Trainer

Report = Callable[[int, int, str, float | None], None]
"""Called with (step, steps, phase, latest loss)."""


class ProgressReporter(TrainerCallback):
    """Reports the progress after every step.

    Args:
        report: Called with the progress.
        trainer: The trainer.
    """

    def __init__(self, report: Report, trainer: Trainer) -> None:
        self._report, self._trainer = report, trainer
        self._loss: float | None = None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the latest loss."""
        self._loss = kwargs["logs"].get("loss", self._loss)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report the step."""
        run = self._trainer.run
        phase = run.phases[run.phase_at(run.step)[0]].name
        self._report(state.global_step, state.max_steps, phase, self._loss)


class FirstStep(TrainerCallback):
    """The cost of the first step, which fills caches and so says nothing about the others.

    Attributes:
        seconds: Wall time of the first step.
        passes: Passes of the first step.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.seconds = self.passes = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keep the cost after the first step."""
        if state.global_step == 1:
            cost = self._trainer.cost()
            self.seconds, self.passes = cost.training_seconds, cost.passes


class NoLastEvaluation(TrainerCallback):
    """Skips the evaluation after the last step, if the reported one is on the same rows."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Cancel the evaluation after the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = False


def learning_curve(
    job: Job, before: dict[str, float], after: dict[str, float]
) -> tuple[CurvePoint, ...]:
    """Return training loss and validation metric by step, from the Trainer's log.

    Args:
        job: A trained job.
        before: Metrics on the validation rows before training; empty if they are not known.
        after: The same after training.
    """
    metric = job.prepared.training_metric.name
    points: dict[int, dict[str, Any]] = {}
    for entry in job.trainer.state.log_history:
        point = points.setdefault(entry["step"], {})
        for name, key in (("loss", "loss"), ("metric", f"eval_{metric}"), ("passes", "passes")):
            if key in entry:
                point[name] = entry[key]
    cost = job.trainer.cost()
    for step, passes, known in ((0, 0.0, before), (cost.steps, cost.passes, after)):
        if metric in known:
            points.setdefault(step, {}).update(passes=passes, metric=known[metric])
    return tuple(
        CurvePoint(step=step, **point)
        for step, point in sorted(points.items())
        if "passes" in point
    )


def collect_examples(job: Job, outcomes: dict[Form, Outcome], split: str) -> Examples:
    """Return the outcome that the primary metric is computed from, row by row."""
    metric = METRICS[job.prepared.task.primary_metric]
    outcome = next(outcome for form, outcome in outcomes.items() if form in metric.forms)
    pairs = list(zip(outcome.predictions, outcome.references, strict=True))
    rows = job.prepared.rows[split]
    return Examples(
        metric.name,
        tuple(portable_place(rows[row].where) for row in job.prepared.draw_rows(split, len(pairs))),
        np.array([metric.score_row(*pair) for pair in pairs], dtype=np.float64),
        tuple(outcome.predictions),
        tuple(outcome.references),
    )


def portable_place(where: Where) -> str:
    """Return the origin of a row without the folders of this machine."""
    path = Path(where.path)
    name = path.name if path.is_absolute() or ".." in path.parts else where.path
    return str(Where(name, where.number, where.unit))
