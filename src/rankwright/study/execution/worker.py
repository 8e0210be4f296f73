"""One run of a study, from request to record, in the process that `rankwright.worker` starts."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import rankwright.methods  # noqa: F401  registers every method
from rankwright.core.describe import describe_method, registered_name
from rankwright.errors import MethodError, TrainingError
from rankwright.job import Job, RunFolder, RunResult, set_up
from rankwright.job.run import versions
from rankwright.study.execution.observe import (
    FirstStep,
    NoLastEvaluation,
    Reporter,
    curve,
    examples,
    held_text,
)
from rankwright.study.execution.protocol import (
    ERROR,
    FAILED,
    OUTCOME,
    PROGRESS,
    REQUEST,
    STOPPED,
    ErrorReport,
    Progress,
    Request,
)
from rankwright.study.records.data import Data
from rankwright.study.records.device import device_name
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.locks import locked
from rankwright.study.records.names import run_name
from rankwright.study.records.records import CostRecord, ForgettingRecord, Measurement, RunRecord
from rankwright.study.records.tuning import TrialOutcome
from rankwright.tasks import TaskError
from rankwright.tasks.constant import constant
from rankwright.tasks.metrics import score
from rankwright.tasks.prepared.forward import forward_rows
from rankwright.training.manifest import file_entries

REPORT_SECONDS = 0.5
MEASURED_ROWS = 64


def main(folder: Path, imports: float) -> int:
    """Do what the request in `folder` asks for; returns the exit status.

    Args:
        folder: Holds the run's description and the request.
        imports: Seconds since the process was started.
    """
    with locked(folder):
        (folder / ERROR).unlink(missing_ok=True)
        try:
            done = Worker(folder, imports).work()
        except (MethodError, TaskError, TrainingError) as error:
            ErrorReport(message=str(error)).save(folder / ERROR)
            print(error, file=sys.stderr, flush=True)
            return FAILED
    return 0 if done else STOPPED


class Worker:
    """One process and its clock.

    Args:
        folder: The run's folder, with `run.yaml` and the request.
        imports: Seconds since the process was started.
    """

    def __init__(self, folder: Path, imports: float) -> None:
        self._started = time.perf_counter() - imports
        self.folder = RunFolder.read(folder, check=False)
        self.request = Request.load(folder / REQUEST)
        self._before = 0.0
        if (folder / PROGRESS).exists():
            self._before = Progress.load(folder / PROGRESS).seconds
        self._last_report = 0.0

    @property
    def seconds(self) -> float:
        """Wall time since the first start of the run, over all its processes."""
        return self._before + time.perf_counter() - self._started

    def work(self) -> bool:
        """Do what was asked for; False after a SIGTERM, with a checkpoint."""
        if self.request.purpose == "run":
            name = run_name(self.request.task, self.request.label, self.folder.config.seed)
            study = StudyFolder(Path(self.request.study))
            return study.record(name).exists() or self._run(study, name)
        outcome = self.folder.path / OUTCOME
        if outcome.exists():
            return True
        return self._trial(outcome) if self.request.purpose == "trial" else self._measure(outcome)

    def report(self, step: int, steps: int, phase: str, loss: float | None = None) -> None:
        """Say how far the run is, not too often."""
        now = time.perf_counter()
        if now - self._last_report >= REPORT_SECONDS or step in (0, steps):
            self._last_report = now
            progress = Progress(
                step=step, steps=steps, phase=phase, seconds=self.seconds, loss=loss
            )
            progress.save(self.folder.path / PROGRESS)

    # What can be asked for -----------------------------------------------------------------------

    def _run(self, study: StudyFolder, name: str) -> bool:
        if self.folder.result.exists():  # its record was deleted, to have it made again
            self.folder.reopen()
            self._before = 0.0
        job = self._set_up()
        held = held_text(job, self.request.held_text)
        known = held and held.loss()
        before = score(job.prepared.reported_metrics, job.predict(self.request.reported_split))
        if self.request.reported_split == "validation":
            job.trainer.add_callback(NoLastEvaluation())
        if not job.run():
            return False
        outcomes = job.predict(self.request.reported_split)
        after = score(job.prepared.reported_metrics, outcomes)
        metric = job.prepared.task.primary_metric
        if not math.isfinite(after[metric]):
            raise TrainingError(
                f"{metric} is {after[metric]} on the {self.request.reported_split} rows after "
                "training, of which no mean can be taken: the model has diverged; a smaller "
                "learning rate may help"
            )
        rows = examples(job, outcomes, self.request.reported_split)
        rows.save(study.examples_file(name))
        forgotten = held.record(known) if held and known else None
        record = self._record(job, before, after, forgotten)
        record = replace(record, constant=constant(job.prepared, outcomes), alike=rows.alike)
        result = self._result(job, record)
        if self.request.keep_adapter:
            job.save_adapter(result)
        record.save(study.record(name))
        study.failure(name).unlink(missing_ok=True)
        written = (study.record(name), study.examples_file(name))
        self.folder.finish(
            job.trainer.state.log_history,
            asdict(result),
            records=file_entries(study.path, written),
        )
        shutil.rmtree(self.folder.checkpoints, ignore_errors=True)
        return True

    def _trial(self, outcome: Path) -> bool:
        job = self._set_up()
        if not job.run():
            return False
        value = job.evaluate("validation")[job.prepared.task.primary_metric]
        passes = job.trainer.cost().passes
        TrialOutcome(value=value, passes=passes, seconds=self.seconds).save(outcome)
        return True

    def _measure(self, outcome: Path) -> bool:
        job = self._set_up()
        first = FirstStep(job.trainer)
        job.trainer.add_callback(first)
        setup = self.seconds
        if not job.run():
            return False
        cost = job.trainer.cost()
        split = self.request.reported_split
        evaluation = self._seconds_of(job, split, lambda some: self._predict(job, some))
        on_curve = self._seconds_of(job, "validation", lambda some: self._forward(job, some))
        text = held_text(job, self.request.held_text)
        held = 0.0 if text is None else _seconds(text.loss)
        Measurement(
            task=self.request.task,
            label=self.request.label,
            seconds_per_pass=(cost.training_seconds - first.seconds) / (cost.passes - first.passes),
            setup_seconds=setup,
            evaluation_seconds=evaluation,
            peak_memory_bytes=job.trainer.process_peak_bytes(),
            trainable_parameters=cost.trainable_parameters,
            curve_seconds=on_curve,
            held_seconds=held,
        ).save(outcome)
        return True

    # Pieces --------------------------------------------------------------------------------------

    def _seconds_of(self, job: Job, split: str, evaluate: Callable[[int], object]) -> float:
        """Wall time of an evaluation, from some of its rows; from a whole batch, for its memory."""
        config = self.folder.config
        rows = len(job.prepared.drawn(split, config.eval_rows))
        some = min(max(MEASURED_ROWS, config.eval_batch_size), rows)
        return _seconds(lambda: evaluate(some)) * rows / some

    def _predict(self, job: Job, rows: int) -> None:
        """Evaluate some of the rows, as before and after training."""
        batch_size, split = self.folder.config.eval_batch_size, self.request.reported_split
        job.prepared.predict(job.model, batch_size=batch_size, split=split, limit=rows)

    def _forward(self, job: Job, rows: int) -> None:
        """One forward pass over some validation rows, as for a point of the curve."""
        task = job.prepared
        data = task.dataset("validation").select(task.drawn("validation", rows))
        batch_size = self.folder.config.eval_batch_size
        reduce = task.preprocess_logits_for_metrics
        forward_rows(job.model, data, task.collator, reduce, batch_size)

    def _set_up(self) -> Job:
        """The job, on the rows of the plan.

        Raises:
            TaskError: They have changed meanwhile.
        """
        self.report(0, self.folder.config.steps or 0, "loading")
        job = self._job()
        planned, found = self.request.data_sha256, Data.of(job.data).sha256
        changed = [name for name in {**planned, **found} if planned.get(name) != found.get(name)]
        if changed:
            self.folder.data.unlink(missing_ok=True)  # it says that the run has started on them
            raise TaskError(
                f"task {self.request.task}: the {' and '.join(changed)} rows are not those of the "
                "study's plan; put them back, or choose another output folder"
            )
        return job

    def _job(self) -> Job:
        return set_up(
            self.folder.config,
            self.folder.method,
            resume=True,  # run.yaml is there; without a checkpoint the run starts at step 0
            callback=lambda trainer: Reporter(self.report, trainer),
            notify=lambda text: print(text, flush=True),
        )

    def _record(
        self,
        job: Job,
        before: dict[str, float],
        after: dict[str, float],
        forgetting: ForgettingRecord | None,
    ) -> RunRecord:
        request, config, method = self.request, self.folder.config, self.folder.method
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
            cost=CostRecord(**job.trainer.cost().as_dict(), total_seconds=self.seconds),
            curve=curve(job, *on_curve),
            curve_metric=job.prepared.training_metric.name,
            head=job.head,
            forgetting=forgetting,
            hyperparameters=describe_method(method),
            options={k: v for k, v in config.as_dict().items() if k not in own},
            data_sha256=request.data_sha256,
            versions=versions(),
            device=device_name(),
            command=f"rankwright train --config {shlex.quote(str(self.folder.description))} "
            "--output FOLDER",
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _result(self, job: Job, record: RunRecord) -> RunResult:
        """The same as `rankwright train` leaves it, so that its folder counts as finished."""
        on_test = record.reported_split == "test"
        return RunResult(
            method=self.folder.method.name,
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


def _seconds(work: Callable[[], object]) -> float:
    """Wall time of some work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
