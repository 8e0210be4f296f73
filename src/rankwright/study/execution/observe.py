"""What a study sees of a run: progress, learning curve, outcomes row by row, forgetting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rankwright.job import Job
from rankwright.study.planning.held_text import HeldText
from rankwright.study.records.examples import Examples
from rankwright.study.records.records import CurvePoint, ForgettingRecord
from rankwright.tasks import METRICS, Outcome
from rankwright.tasks.errors import Where
from rankwright.tasks.metrics import Form
from rankwright.tasks.prepared.causal import PreparedCausal
from rankwright.training import Trainer

Report = Callable[[int, int, str, float | None], None]
"""(step, steps, phase, latest loss)."""


class Reporter(TrainerCallback):
    """Passes progress on, after every step.

    Args:
        report: What takes it.
        trainer: The trainer.
    """

    def __init__(self, report: Report, trainer: Trainer) -> None:
        self._report, self._trainer = report, trainer
        self._loss: float | None = None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the latest loss."""
        self._loss = kwargs["logs"].get("loss", self._loss)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report the step."""
        run = self._trainer.run
        phase = run.phases[run.phase_at(run.step)[0]].name
        self._report(state.global_step, state.max_steps, phase, self._loss)


class FirstStep(TrainerCallback):
    """What the first step took, which warms caches up and is no measure of the others.

    Attributes:
        seconds: Its wall time.
        passes: Its passes.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.seconds = self.passes = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note the cost after the first step."""
        if state.global_step == 1:
            cost = self._trainer.cost()
            self.seconds, self.passes = cost.training_seconds, cost.passes


class NoLastEvaluation(TrainerCallback):
    """No evaluation after the last step, where the reported one is of the same rows."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave it out."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = False


def curve(job: Job, before: dict[str, float], after: dict[str, float]) -> tuple[CurvePoint, ...]:
    """The training loss and the metric of the validation rows, from the Trainer's log.

    Args:
        job: A trained job.
        before: Metrics of the validation rows before training; empty where they are not known.
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


def examples(job: Job, outcomes: dict[Form, Outcome], split: str) -> Examples:
    """The outcome that the primary metric is computed from, row by row."""
    metric = METRICS[job.prepared.task.primary_metric]
    outcome = next(outcome for form, outcome in outcomes.items() if form in metric.forms)
    pairs = list(zip(outcome.predictions, outcome.references, strict=True))
    rows = job.prepared.rows[split]
    return Examples(
        metric.name,
        tuple(place(rows[row].where) for row in job.prepared.drawn(split, len(pairs))),
        np.array([metric.score_row(*pair) for pair in pairs], dtype=np.float64),
        tuple(outcome.predictions),
        tuple(outcome.references),
    )


def place(where: Where) -> str:
    """The place of a row, without the folders of a machine."""
    path = Path(where.path)
    name = path.name if path.is_absolute() or ".." in path.parts else where.path
    return str(Where(name, where.number, where.unit))


@dataclass(frozen=True)
class Held:
    """A held text and the model that it is read to.

    Attributes:
        text: The text.
        job: The job; its model changes under this.
        prepared: Its task.
    """

    text: HeldText
    job: Job
    prepared: PreparedCausal

    def loss(self) -> tuple[float, int]:
        """Mean -log p of a token now, in nats, and the number of tokens."""
        batch_size = self.job.folder.config.eval_batch_size
        return self.text.loss(self.job.model, self.prepared, batch_size)

    def record(self, before: tuple[float, int]) -> ForgettingRecord:
        """The loss before, as `loss` gave it, beside that of now."""
        return ForgettingRecord(
            text=self.text.name,
            sha256=self.text.sha256,
            tokens=before[1],
            before=before[0],
            after=self.loss()[0],
        )


def held_text(job: Job, path: str | None) -> Held | None:
    """The text that forgetting is measured on; None where the model speaks no language.

    Args:
        job: A job.
        path: File of the text; None for the built-in one.
    """
    if not isinstance(job.prepared, PreparedCausal):
        return None
    return Held(HeldText.read(path), job, job.prepared)
