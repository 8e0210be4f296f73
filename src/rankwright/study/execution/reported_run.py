"""A reported run: evaluate, train, evaluate again, and write the records."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from rankwright.core.describe import describe_method, registered_name
from rankwright.errors import TrainingError
from rankwright.job import Job, RunResult
from rankwright.job.result import versions
from rankwright.study.execution.forgetting import held_loss
from rankwright.study.execution.observe import NoLastEvaluation, collect_examples, learning_curve
from rankwright.study.execution.session import Session
from rankwright.study.records.device import device_name
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.names import run_name
from rankwright.study.records.records import CostRecord, ForgettingRecord, RunRecord
from rankwright.tasks.constant import score_constant
from rankwright.tasks.metrics import score
from rankwright.training.manifest import file_entries


def carry_out_run(session: Session) -> bool:
    """Train, evaluate and write the records of a run; return False after SIGTERM."""
    request = session.request
    study = StudyFolder(Path(request.study))
    name = run_name(request.task, request.label, session.folder.config.seed)
    if study.record(name).exists():
        return True
    if session.folder.result.exists():  # its record was deleted, so that the run is repeated
        session.folder.reopen()
        session.forget_earlier_processes()
    job, split = session.set_up(), request.reported_split
    held = held_loss(job, request.held_text)
    known = held and held.compute()
    before = score(job.prepared.reported_metrics, job.predict(split))
    if split == "validation":
        job.trainer.add_callback(NoLastEvaluation())
    if not job.run():
        return False
    outcomes = job.predict(split)
    after = score(job.prepared.reported_metrics, outcomes)
    _check_finite(job, after, split)
    examples = collect_examples(job, outcomes, split)
    examples.save(study.examples_file(name))
    forgotten = held.record(known) if held and known else None
    record = _make_record(session, job, before, after, forgotten)
    record = replace(record, constant=score_constant(job.prepared, outcomes), alike=examples.alike)
    _finish(session, job, study, record)
    return True


def _check_finite(job: Job, metrics: Mapping[str, float], split: str) -> None:
    """Refuse a primary metric that no mean over seeds can include."""
    metric = job.prepared.task.primary_metric
    if not math.isfinite(metrics[metric]):
        raise TrainingError(
            f"{metric} is {metrics[metric]} on the {split} rows after training, of which no mean "
            "can be taken: the model has diverged; a smaller learning rate may help"
        )


def _finish(session: Session, job: Job, study: StudyFolder, record: RunRecord) -> None:
    """Save adapter and record, then finish the run's folder with the digests of its records."""
    name = record.name
    result = _make_result(job, record)
    if session.request.keep_adapter:
        job.save_adapter(result)
    record.save(study.record(name))
    study.failure(name).unlink(missing_ok=True)
    written = (study.record(name), study.examples_file(name))
    session.folder.finish(
        job.trainer.state.log_history,
        asdict(result),
        records=file_entries(study.path, written),
    )
    shutil.rmtree(session.folder.checkpoints, ignore_errors=True)


def _make_record(
    session: Session,
    job: Job,
    before: dict[str, float],
    after: dict[str, float],
    forgetting: ForgettingRecord | None,
) -> RunRecord:
    request, config, method = session.request, session.folder.config, session.folder.method
    task = job.prepared.task
    on_curve = (before, after) if request.reported_split == "validation" else ({}, {})
    own = {"output", "trainer", "seed", "model"}
    return RunRecord(
        task=request.task,
        label=request.label,
        method=registered_name(type(method)),
        seed=config.seed,
        model=config.model,
        kind=task.kind,
        metric=task.primary_metric,
        greater_is_better=task.greater_is_better,
        reported_split=request.reported_split,
        before=before,
        after=after,
        cost=CostRecord(**job.trainer.cost().as_dict(), total_seconds=session.seconds),
        curve=learning_curve(job, *on_curve),
        curve_metric=job.prepared.training_metric.name,
        head=job.head,
        forgetting=forgetting,
        hyperparameters=describe_method(method),
        options={k: v for k, v in config.as_dict().items() if k not in own},
        data_sha256=request.data_sha256,
        versions=versions(),
        device=device_name(),
        command=f"rankwright train --config {shlex.quote(str(session.folder.description))} "
        "--output FOLDER",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _make_result(job: Job, record: RunRecord) -> RunResult:
    """Return the result that `rankwright train` leaves, so that the folder counts as finished."""
    on_test = record.reported_split == "test"
    return RunResult(
        method=job.folder.method.name,
        task=job.prepared.task.name,
        model=record.model,
        seed=record.seed,
        primary_metric=record.metric,
        before={} if on_test else record.before,
        after={} if on_test else record.after,
        test=record.after if on_test else {},
        train_rows=len(job.trainer.train_dataset),
        cost=job.trainer.cost(),
        seconds=record.cost.total_seconds,
        versions=record.versions,
    )
