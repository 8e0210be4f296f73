"""Train one adapter as described and leave a folder that tells everything about it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.job.arguments import (
    check_best,
    check_buildable,
    refused,
    steps_of,
    training_arguments,
)
from rankwright.job.card import Facts, write_card
from rankwright.job.config import TrainConfig
from rankwright.job.data import RunData, read_data
from rankwright.job.files import write_json
from rankwright.job.folder import RunFolder
from rankwright.job.head import Head
from rankwright.job.lock import FolderLock
from rankwright.job.models import load_base, load_tokenizer
from rankwright.job.observing import PhaseNote, ValidationCurve, evaluation_seconds
from rankwright.job.overwrite import check_replaceable, drop_replaced, set_aside
from rankwright.job.paths import expanded
from rankwright.job.resume import check_new, check_same_data, resumed_from, start_notice
from rankwright.job.rows import RunRows
from rankwright.job.widths import check_rank
from rankwright.peft_layers.injection import ADAPTER
from rankwright.tasks import Outcome, PreparedTask
from rankwright.tasks.metrics import Form, score
from rankwright.training import Trainer, checkpoint
from rankwright.training.cost import Cost

CallbackFactory = Callable[[Trainer], TrainerCallback]
Notify = Callable[[str], None]
PACKAGES = ("rankwright", "torch", "transformers", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run.

    Attributes:
        method: Name of the method.
        task: Name of the task.
        model: Name of the model.
        seed: The run's seed.
        primary_metric: The metric to judge by.
        before: Metrics on the validation rows with the untrained adapter, which is the base model.
        after: The same after training.
        test: Metrics on the test rows after training, where there are some.
        train_rows: Rows trained on.
        cost: What training cost.
        seconds: Wall time from start to end, evaluation included; of a resumed run over all its
            processes, without what a crash undid.
        versions: Versions of what computed it.
        interrupted: Whether SIGTERM, or Ctrl-C on the command line, stopped the run; there are no
            `after` metrics then.
        evaluation_seconds: Wall time of the evaluations in the course of training; in `seconds`,
            not in `cost`.
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


@dataclass
class Job:
    """A run that is set up: data read, model adapted, trainer built; nothing trained yet.

    Attributes:
        folder: Where it leaves what it gives.
        data: What it reads.
        trainer: The trainer, which has the model.
        start: The checkpoint that it goes on from; None for a start at step 0.
        lock: Holds the folder against other processes, until it is released or the job is gone;
            None in the other processes of a distributed run.
        replaces_head: Whether the base model's file has a head of another size.
    """

    folder: RunFolder
    data: RunData
    trainer: Trainer
    start: Path | None
    lock: FolderLock | None
    replaces_head: bool

    @property
    def prepared(self) -> PreparedTask:
        """The rows that it trains on and is scored on."""
        return self.data.prepared

    @property
    def model(self) -> PeftModel:
        """The adapted model."""
        return self.trainer.run.model

    def predict(self, split: str) -> dict[Form, Outcome]:
        """What the model says now about the rows of a split, `eval_rows` of them at most."""
        config = self.folder.config
        return self.prepared.predict(
            self.model, batch_size=config.eval_batch_size, split=split, limit=config.eval_rows
        )

    def evaluate(self, split: str) -> dict[str, float]:
        """The metrics of the same rows."""
        return score(self.prepared.reported_metrics, self.predict(split))

    def run(self) -> bool:
        """Train to the end; False if SIGTERM came before it, and a checkpoint was saved."""
        self.trainer.train(resume_from_checkpoint=None if self.start is None else str(self.start))
        return not self.trainer.interrupted

    @property
    def head(self) -> Head:
        """What the base model was loaded with."""
        return Head.of(self.prepared, replaces=self.replaces_head)

    def save_adapter(self, result: RunResult) -> None:
        """Write adapter, tokenizer and README, whole or not at all; before them, the head."""
        self.head.save(self.folder.head)
        temporary = self.folder.path / ".saving-adapter"
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed here
        self.folder.method.made_of().export.save(self.model, ADAPTER, temporary)
        self.prepared.tokenizer.save_pretrained(temporary)
        facts = Facts.of_run(self.folder, asdict(result))
        write_card(temporary, self.model, self.head, facts)
        checkpoint.publish(temporary, self.folder.adapter)

    def release(self) -> None:
        """Let other processes have the folder."""
        if self.lock is not None:
            self.lock.release()


class _Clock(TrainerCallback):
    """The wall time of a run over all its processes; kept beside every checkpoint."""

    def __init__(self, started: float, job: Job) -> None:
        self._started, self._file = started, job.folder.clock
        self._before = 0.0
        if job.start is not None:
            self._before = _seconds_in(self._file)

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._started

    def on_save(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        if state.is_world_process_zero:
            with contextlib.suppress(OSError):  # as in `_seconds_in`
                write_json(self._file, {"seconds": self.seconds})


def _seconds_in(file: Path) -> float:
    """The seconds in the file, or 0: a damaged clock must not stop a run."""
    try:
        seconds = float(json.loads(file.read_text("utf-8"))["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


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
    """Everything that comes before training.

    Args:
        config: The run.
        method: The method.
        resume: Go on from the newest complete checkpoint of the run's folder.
        overwrite: Replace the run in the folder, which is kept until this one is finished.
        callback: Makes a Trainer callback, such as a progress bar.
        notify: Called with what the user should know: rows that were cut, where a run goes on.
        rows: The run's rows, if they have been read.

    Raises:
        MethodError: The description cannot be carried out, another process is training into the
            folder, or a run that goes on would do so on other data.
        TaskError: The data is not what the task declares.
    """
    if resume and overwrite:
        raise MethodError("resume and overwrite: a run is continued or replaced; give one")
    task = config.make_task()
    folder = RunFolder(_output(config, method, task.name), config, method)
    if resume:
        RunFolder.read(folder.path, check=False)  # a folder that is not there is not made
    with contextlib.ExitStack() as on_error:
        lock = None
        if os.environ.get("RANK", "0") == "0":  # torchrun sets it
            lock = FolderLock(folder.path)
            on_error.callback(lock.release)
        start = _checked_start(folder, resume=resume, overwrite=overwrite)
        if isinstance(rank := getattr(method, "r", None), int):
            check_rank(config.model, rank)
        data = read_data(config, load_tokenizer(config.model), rows)
        if resume:
            check_same_data(folder, data.splits)
        base = load_base(config.model, data.prepared, config.seed)
        model = method.apply(base.model, seed=config.seed, missing_keys=base.missing_keys)
        trainer = _trainer(model, data, folder)
        if callback is not None:
            trainer.add_callback(callback(trainer))
        notices = [start_notice(start)] if resume else method.notices(model, base.missing_keys)
        if trainer.is_world_process_zero():
            if overwrite:
                notices += set_aside(folder)
            if not resume:
                folder.write_description()
            write_json(folder.data, data.splits)
        for text in (*data.notices, *notices):
            if notify is not None:
                notify(text)
        on_error.pop_all()
    return Job(folder, data, trainer, start, lock, base.replaces_head)


def _checked_start(folder: RunFolder, *, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint that a run goes on from; None for a start at step 0.

    Raises:
        MethodError: The folder's content does not allow such a start.
    """
    if resume:
        return resumed_from(folder)
    if overwrite:
        check_replaceable(folder)
    else:
        check_new(folder)
    return None


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
    """Run the job; the arguments are those of `set_up`.

    Returns:
        The run's folder with adapter, description and result, and the result.

    Raises:
        MethodError: The description cannot be carried out; nothing was trained.
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
        return job.folder, _carried_out(job, _Clock(started, job))
    finally:
        job.release()


def _carried_out(job: Job, clock: _Clock) -> RunResult:
    """Train, evaluate, and write what a finished run leaves."""
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


def versions() -> dict[str, str]:
    """Versions of Python and the packages that compute a result."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _output(config: TrainConfig, method: Method, task: str) -> Path:
    name = f"{method.label}-{task.replace('/', '-')}-{config.seed}"
    return expanded(config.output) if config.output else Path("runs") / name


def _train_rows(prepared: PreparedTask, config: TrainConfig) -> Dataset:
    rows = prepared.dataset("train")
    if config.train_rows is None:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    return rows.select(order[: config.train_rows].tolist())


def _trainer(model: PeftModel, data: RunData, folder: RunFolder) -> Trainer:
    """The trainer of a run; what it reports goes to our own callback."""
    prepared = data.prepared
    rows = _train_rows(prepared, folder.config)
    shown = prepared.dataset("validation")
    if folder.config.eval_rows is not None:
        shown = shown.select(prepared.drawn("validation", folder.config.eval_rows))
    arguments = training_arguments(folder.config, folder, len(rows))
    try:
        check_buildable(arguments, model, steps_of(folder.config, len(rows)))
        check_best(arguments, prepared)
        trainer = Trainer(
            model,
            arguments,
            train_dataset=rows,
            eval_dataset=shown,
            data_collator=prepared.collator,
            compute_metrics=prepared.compute_metrics,
            preprocess_logits_for_metrics=prepared.preprocess_logits_for_metrics,
            processing_class=prepared.tokenizer,
            method=folder.method,
            held_out_dataset=data.held_out,
            head_learning_rate=folder.config.head_learning_rate,
        )
    except MethodError:
        raise
    except (TypeError, ValueError, RuntimeError, ImportError) as error:  # an unknown report_to, say
        raise MethodError(refused(error)) from error
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(PhaseNote(trainer.run))
    return trainer
