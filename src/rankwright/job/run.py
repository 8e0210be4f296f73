"""Train one adapter from a description, into a folder that records everything about the run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from transformers import TrainerCallback

from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.job.clock import RunClock
from rankwright.job.config import TrainConfig
from rankwright.job.data import RunData, read_data
from rankwright.job.files import write_json
from rankwright.job.folder import RunFolder
from rankwright.job.job import Job
from rankwright.job.lock import FolderLock
from rankwright.job.models import Base, load_base
from rankwright.job.observing import ValidationCurve, evaluation_seconds
from rankwright.job.overwrite import check_replaceable, drop_replaced, set_aside
from rankwright.job.paths import expanded
from rankwright.job.result import RunResult, versions
from rankwright.job.resume import check_new, check_same_data, resume_point, start_notice
from rankwright.job.rows import RunRows
from rankwright.job.tokenizers import load_tokenizer
from rankwright.job.trainer import build_trainer
from rankwright.job.widths import check_rank
from rankwright.training import Trainer

CallbackFactory = Callable[[Trainer], TrainerCallback]
Notify = Callable[[str], None]


def set_up(
    config: TrainConfig,
    method: Method,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callback: CallbackFactory | None = None,
    notify: Notify | None = None,
    rows: RunRows | None = None,
) -> Job:
    """Check the run, read its data, adapt its model and build its trainer.

    Args:
        config: The run.
        method: The method.
        resume: Continue from the newest complete checkpoint in the run's folder.
        overwrite: Replace the run in the folder, which is kept until this one is finished.
        callback: Makes a Trainer callback, such as a progress bar.
        notify: Called with each notice for the user: truncated rows, the checkpoint to start from.
        rows: The run's rows, if they have been read.

    Raises:
        MethodError: The run cannot be carried out as described, another process is training into
            the folder, or the data differs from that of the run to resume.
        TaskError: The data is not what the task declares.
    """
    if resume and overwrite:
        raise MethodError("resume and overwrite: a run is continued or replaced; give one")
    folder = RunFolder(_output_folder(config, method), config, method)
    if resume:
        RunFolder.read(folder.path, check=False)  # before the lock, which would make the folder
    with contextlib.ExitStack() as on_error:
        lock = _lock_folder(folder)
        if lock is not None:
            on_error.callback(lock.release)
        start = _find_start(folder, resume=resume, overwrite=overwrite)
        data = _read_checked(folder, rows, resume=resume)
        base = load_base(config.model, data.prepared, config.seed)
        model = method.apply(base.model, seed=config.seed, missing_keys=base.missing_keys)
        job = Job(folder, data, build_trainer(model, data, folder), start, lock, base.replaces_head)
        if callback is not None:
            job.trainer.add_callback(callback(job.trainer))
        notices = _start_notices(job, base, resume=resume)
        if job.trainer.is_world_process_zero():
            notices += _write_start(job, resume=resume, overwrite=overwrite)
        for text in (*data.notices, *notices):
            if notify is not None:
                notify(text)
        on_error.pop_all()
    return job


def _output_folder(config: TrainConfig, method: Method) -> Path:
    task = config.make_task().name  # also checks the options of the task
    name = f"{method.label}-{task.replace('/', '-')}-{config.seed}"
    return expanded(config.output) if config.output else Path("runs") / name


def _lock_folder(folder: RunFolder) -> FolderLock | None:
    """Lock the folder in the first process of a run; the others, under torchrun, share its lock."""
    return FolderLock(folder.path) if os.environ.get("RANK", "0") == "0" else None


def _find_start(folder: RunFolder, *, resume: bool, overwrite: bool) -> Path | None:
    """Return the checkpoint to continue from; None for a start at step 0.

    Raises:
        MethodError: The folder's content does not allow such a start.
    """
    if resume:
        return resume_point(folder)
    if overwrite:
        check_replaceable(folder)
    else:
        check_new(folder)
    return None


def _read_checked(folder: RunFolder, rows: RunRows | None, *, resume: bool) -> RunData:
    """Read the data of a run, after a check of the rank that needs no data."""
    config = folder.config
    if isinstance(rank := getattr(folder.method, "r", None), int):
        check_rank(config.model, rank)
    data = read_data(config, load_tokenizer(config.model), rows)
    if resume:
        check_same_data(folder, data.splits)
    return data


def _start_notices(job: Job, base: Base, *, resume: bool) -> list[str]:
    if resume:
        return [start_notice(job.start)]
    return list(job.folder.method.notices(job.model, base.missing_keys))


def _write_start(job: Job, *, resume: bool, overwrite: bool) -> list[str]:
    """Write what describes the run before it trains; return notices for the user."""
    notices = set_aside(job.folder) if overwrite else []
    if not resume:
        job.folder.write_description()
    write_json(job.folder.data, job.data.splits)
    return notices


def train(
    config: TrainConfig,
    method: Method,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callback: CallbackFactory | None = None,
    notify: Notify | None = None,
    rows: RunRows | None = None,
) -> tuple[RunFolder, RunResult]:
    """Set up a run and carry it out; the arguments are those of `set_up`.

    Returns:
        The run's folder with adapter, description and result, and the result.

    Raises:
        MethodError: The run cannot be carried out as described; nothing was trained.
        TaskError: The data is not what the task declares.
        TrainingError: Training failed; the message names the last good checkpoint.
    """
    started = time.perf_counter()
    job = set_up(
        config,
        method,
        resume=resume,
        overwrite=overwrite,
        callback=callback,
        notify=notify,
        rows=rows,
    )
    try:
        clock = RunClock(started, job.folder.clock, resumed=job.start is not None)
        return job.folder, _carry_out(job, clock)
    finally:
        job.release()


def _carry_out(job: Job, clock: RunClock) -> RunResult:
    """Train, evaluate, and write the adapter and the result."""
    job.trainer.add_callback(clock)
    if "eval_strategy" not in job.folder.config.trainer:
        job.trainer.add_callback(ValidationCurve())
    before = job.evaluate("validation")
    finished = job.run()
    task, config = job.prepared.task, job.folder.config
    result = RunResult(
        method=job.folder.method.label,
        task=task.name,
        model=config.model,
        seed=config.seed,
        primary_metric=task.primary_metric,
        before=before,
        after=job.evaluate("validation") if finished else {},
        test=job.evaluate("test") if finished and job.prepared.test else {},
        train_rows=len(job.trainer.train_dataset),
        cost=job.trainer.cost(),
        seconds=clock.seconds,
        versions=versions(),
        interrupted=not finished,
        evaluation_seconds=evaluation_seconds(job.trainer.state.log_history),
    )
    if finished and job.trainer.is_world_process_zero():
        job.save_adapter(result)
        job.folder.finish(job.trainer.state.log_history, asdict(result))
        drop_replaced(job.folder)
    return result
