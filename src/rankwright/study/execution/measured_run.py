"""A few steps of a run and its evaluations, to measure their time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rankwright.job import Job
from rankwright.study.execution.forgetting import held_loss
from rankwright.study.execution.observe import FirstStep
from rankwright.study.execution.session import Session
from rankwright.study.records.records import Measurement
from rankwright.tasks.prepared.forward import forward_rows

MEASURED_ROWS = 64
"""Rows that an evaluation is timed on, unless a batch has more."""


def carry_out_measurement(session: Session, outcome: Path) -> bool:
    """Train a few steps, evaluate, and write what that took; return False after SIGTERM.

    Args:
        session: The process.
        outcome: File of the `Measurement`.
    """
    job, request = session.set_up(), session.request
    first = FirstStep(job.trainer)
    job.trainer.add_callback(first)
    setup = session.seconds
    if not job.run():
        return False
    cost = job.trainer.cost()
    split = request.reported_split
    evaluation = _estimate_seconds(job, split, lambda rows: _predict(job, split, rows))
    on_curve = _estimate_seconds(job, "validation", lambda rows: _forward(job, rows))
    held = held_loss(job, request.held_text)
    on_held_text = 0.0 if held is None else _time(held.compute)
    Measurement(
        task=request.task,
        label=request.label,
        seconds_per_pass=(cost.training_seconds - first.seconds) / (cost.passes - first.passes),
        setup_seconds=setup,
        evaluation_seconds=evaluation,
        peak_memory_bytes=job.trainer.process_peak_bytes(),  # evaluations above included
        trainable_parameters=cost.trainable_parameters,
        curve_seconds=on_curve,
        held_seconds=on_held_text,
    ).save(outcome)
    return True


def _estimate_seconds(job: Job, split: str, evaluate: Callable[[int], object]) -> float:
    """Estimate the wall time of an evaluation from some of its rows.

    They fill at least one batch, so that the process reaches the memory of a whole evaluation.
    """
    config = job.folder.config
    rows = len(job.prepared.draw_rows(split, config.eval_rows))
    some = min(max(MEASURED_ROWS, config.eval_batch_size), rows)
    return _time(lambda: evaluate(some)) * rows / some


def _predict(job: Job, split: str, rows: int) -> None:
    """Evaluate some rows as before and after training."""
    batch_size = job.folder.config.eval_batch_size
    job.prepared.predict(job.model, batch_size=batch_size, split=split, limit=rows)


def _forward(job: Job, rows: int) -> None:
    """Make one forward pass over some validation rows, as for a point of the curve."""
    task = job.prepared
    data = task.dataset("validation").select(task.draw_rows("validation", rows))
    batch_size = job.folder.config.eval_batch_size
    forward_rows(job.model, data, task.collator, task.preprocess_logits_for_metrics, batch_size)


def _time(work: Callable[[], object]) -> float:
    """Return the wall time of a call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
