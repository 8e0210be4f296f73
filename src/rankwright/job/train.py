"""Train one adapter as described and leave a folder that tells everything about it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from rankwright.core.errors import MethodError, did_you_mean
from rankwright.core.method import Method
from rankwright.job.config import TrainConfig
from rankwright.job.files import write_json
from rankwright.job.load import Head, RunFolder, load_base, load_tokenizer, read_whole
from rankwright.job.lock import FolderLock
from rankwright.tasks import Outcome, PreparedTask, WithTest
from rankwright.tasks.metrics import METRICS, Form, score
from rankwright.tasks.rows import digest
from rankwright.training import Trainer, checkpoint
from rankwright.training.cost import Cost

CallbackFactory = Callable[[Trainer], TrainerCallback]
Notify = Callable[[str], None]
PACKAGES = ("rankwright", "torch", "transformers", "peft", "accelerate", "datasets")

# TrainingArguments by the option of TrainConfig that sets them.
ARGUMENTS = {
    "seed": "seed",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warmup",
    "weight_decay": "weight_decay",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation_steps": "accumulation",
    "max_grad_norm": "max_grad_norm",
    "bf16": "bf16",
    "activation_checkpointing": "gradient_checkpointing",
    "save_total_limit": "keep_checkpoints",
}
# The same for those that are derived, and for older names.
DERIVED = {
    "output_dir": "output",
    "max_steps": "steps",
    "save_steps": "save_steps",
    "warmup_ratio": "warmup",
    "gradient_checkpointing": "gradient_checkpointing",
}
# Arguments that may be "no", a word that YAML 1.1 takes for False.
STRATEGIES = frozenset({"eval_strategy", "logging_strategy", "save_strategy"})
# Options that may change when a run goes on: they do not touch what is computed in a step. Whether
# those of the Trainer do, the user has to know.
FREE_ON_RESUME = frozenset(
    {"output", "eval_batch_size", "eval_rows", "save_steps", "keep_checkpoints", "trainer"}
)


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


@dataclass
class Job:
    """A run that is set up: data read, model adapted, trainer built; nothing trained yet.

    Attributes:
        folder: Where it leaves what it gives.
        prepared: The data.
        trainer: The trainer, which has the model.
        start: The checkpoint that it goes on from; None for a start at step 0.
        lock: Holds the folder against other processes, until it is released or the job is gone;
            None in the other processes of a distributed run.
    """

    folder: RunFolder
    prepared: PreparedTask
    trainer: Trainer
    start: Path | None
    lock: FolderLock | None

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

    def save_adapter(self) -> None:
        """Write the adapter, with the tokenizer in it, whole or not at all; before it, the head."""
        Head.of(self.prepared).save(self.folder.head)
        temporary = self.folder.path / ".saving-adapter"
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed here
        self.model.save_pretrained(temporary)
        self.prepared.tokenizer.save_pretrained(temporary)
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
        if job.start is not None and self._file.is_file():
            self._before = json.loads(self._file.read_text("utf-8"))["seconds"]

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._started

    def on_save(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        if state.is_world_process_zero:
            write_json(self._file, {"seconds": self.seconds})


def set_up(
    config: TrainConfig,
    method: Method,
    *,
    resume: bool = False,
    callback: CallbackFactory | None = None,
    notify: Notify | None = None,
) -> Job:
    """Everything that comes before training.

    Args:
        config: The run.
        method: The method.
        resume: Go on from the newest complete checkpoint of the run's folder.
        callback: Makes a Trainer callback, such as a progress bar.
        notify: Called with what the user should know: rows that were cut, where a run goes on.

    Raises:
        MethodError: The description cannot be carried out, another process is training into the
            folder, or a run that goes on would do so on other data.
        TaskError: The data is not what the task declares.
    """
    task = config.make_task()
    folder = RunFolder(_output(config, method, task.name), config, method)
    if resume:
        RunFolder.read(folder.path)  # a folder that is not there is not made
    with contextlib.ExitStack() as on_error:
        lock = None
        if os.environ.get("RANK", "0") == "0":  # torchrun sets it
            lock = FolderLock(folder.path)
            on_error.callback(lock.release)
        start = None
        if resume:
            start = _resumed_from(folder)
        else:
            _check_new(folder)
        prepared = task.prepare(load_tokenizer(config.model))
        held_out = _held_out(config, prepared)
        data = _data(prepared, held_out)
        if resume:
            _check_same_data(folder, data)
        model = method.apply(load_base(config.model, prepared, config.seed), seed=config.seed)
        trainer = _trainer(model, prepared, held_out and held_out.test, folder)
        if callback is not None:
            trainer.add_callback(callback(trainer))
        if trainer.is_world_process_zero():
            if not resume:
                folder.write_description()
            write_json(folder.data, data)
        for text in (*prepared.warnings, *([_start_notice(start)] if resume else [])):
            if notify is not None:
                notify(text)
        on_error.pop_all()
    return Job(folder, prepared, trainer, start, lock)


def train(
    config: TrainConfig,
    method: Method,
    *,
    resume: bool = False,
    callback: CallbackFactory | None = None,
    notify: Notify | None = None,
) -> tuple[RunFolder, RunResult]:
    """Run the job; the arguments are those of `set_up`.

    Returns:
        The run's folder with adapter, description and result, and the result.

    Raises:
        MethodError: The description cannot be carried out; nothing was trained.
        TaskError: The data is not what the task declares.
        TrainingError: Training failed; the message names the newest checkpoint.
    """
    started = time.perf_counter()
    job = set_up(config, method, resume=resume, callback=callback, notify=notify)
    try:
        return job.folder, _carried_out(job, _Clock(started, job))
    finally:
        job.release()


def _carried_out(job: Job, clock: _Clock) -> RunResult:
    """Train, evaluate, and write what a finished run leaves."""
    job.trainer.add_callback(clock)
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
    )
    if finished and job.trainer.is_world_process_zero():
        job.save_adapter()
        write_json(job.folder.history, job.trainer.state.log_history)
        write_json(job.folder.result, asdict(result))
    return result


def training_arguments(config: TrainConfig, folder: RunFolder, rows: int) -> TrainingArguments:
    """The Trainer's arguments of a run.

    Raises:
        MethodError: `config.trainer` names something that `TrainingArguments` does not have, or
            that is an option of its own; or a value is not one that it takes.
    """
    _check_trainer_keys(config.trainer)
    steps = _steps_of(config, rows)
    values: dict[str, Any] = {
        **{argument: getattr(config, option) for argument, option in ARGUMENTS.items()},
        "output_dir": str(folder.checkpoints),
        "max_steps": config.steps or -1,
        "save_steps": config.save_steps or max(1, steps // 10),
        "logging_steps": max(1, steps // 50),
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),  # without it bf16 is refused on a CPU
        "dataloader_pin_memory": torch.cuda.is_available(),
        **{
            name: "no" if value is False and name in STRATEGIES else value
            for name, value in config.trainer.items()
        },
    }
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise MethodError(_refused(error)) from error


def versions() -> dict[str, str]:
    """Versions of Python and the packages that compute a result."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _output(config: TrainConfig, method: Method, task: str) -> Path:
    name = f"{method.label}-{task.replace('/', '-')}-{config.seed}"
    return Path(config.output) if config.output else Path("runs") / name


def _steps_of(config: TrainConfig, rows: int) -> int:
    per_step = config.batch_size * config.accumulation
    return config.steps or max(1, round(config.epochs * -(-rows // per_step)))


def _held_out(config: TrainConfig, prepared: PreparedTask) -> PreparedTask | None:
    """The user's own second split, labelled as the training rows are, as a test split."""
    if config.held_out_data is None:
        return None
    task = config.make_task()
    source = WithTest(source=task.source, path=Path(config.held_out_data).expanduser())
    return replace(task, source=source).prepare(prepared.tokenizer)


def _data(prepared: PreparedTask, held_out: PreparedTask | None) -> dict[str, dict[str, Any]]:
    """Number and digest of the rows of every split, by which a run knows its data again."""
    splits = {**vars(prepared.rows), "held_out": held_out and held_out.rows.test}
    columns = prepared.task.columns
    return {
        name: {"rows": len(rows), "sha256": digest(rows, columns)}
        for name, rows in splits.items()
        if rows is not None
    }


def _check_same_data(folder: RunFolder, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to go on with other rows than the run started with; a study's start has no file."""
    if not folder.data.is_file():
        return
    config, none = folder.config, {"rows": 0}
    started = read_whole(folder.data, lambda path: dict(json.loads(path.read_text("utf-8"))))
    for split in sorted(started.keys() | data.keys()):
        old, new = started.get(split, none), data.get(split, none)
        if old != new:
            name = getattr(config, f"{split}_data", None) or config.data or config.task
            raise MethodError(
                f"{name} is not what it was when the run started: {old['rows']} {split} rows, now "
                f"{new['rows']}, with other contents; restore it, or start anew with another "
                "--output"
            )


def _train_rows(prepared: PreparedTask, config: TrainConfig) -> Dataset:
    rows = prepared.dataset("train")
    if config.train_rows is None:
        return rows
    if config.train_rows > len(rows):
        raise MethodError(
            f"train_rows = {config.train_rows}: {prepared.task.name} has {len(rows)} training rows"
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    return rows.select(order[: config.train_rows].tolist())


def _check_trainer_keys(keys: Iterable[str]) -> None:
    known = TrainingArguments.__dataclass_fields__
    for name in keys:
        option = ARGUMENTS.get(name) or DERIVED.get(name)
        if option is not None:
            raise MethodError(f"trainer.{name}: give it as the option {option} instead")
        if name not in known:
            raise MethodError(
                f"trainer.{name}: transformers.TrainingArguments has no {name}"
                f"{did_you_mean(name, known)}"
            )


def _trainer(
    model: PeftModel, prepared: PreparedTask, held_out: Dataset | None, folder: RunFolder
) -> Trainer:
    """The trainer of a run; what it reports goes to our own callback."""
    rows = _train_rows(prepared, folder.config)
    shown = prepared.dataset("validation")
    if folder.config.eval_rows is not None:
        shown = shown.select(range(min(folder.config.eval_rows, len(shown))))
    arguments = training_arguments(folder.config, folder, len(rows))
    try:
        _check_buildable(arguments, model, _steps_of(folder.config, len(rows)))
        _check_best(arguments, prepared)
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
            held_out_dataset=held_out,
            head_learning_rate=folder.config.head_learning_rate,
        )
    except MethodError:
        raise
    except (TypeError, ValueError, RuntimeError, ImportError) as error:  # an unknown report_to, say
        raise MethodError(_refused(error)) from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _check_buildable(arguments: TrainingArguments, model: PeftModel, steps: int) -> None:
    """Build optimizer and schedule once for a lone matrix: the Trainer does so only in training."""
    lone = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    of_weights = isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
    if of_weights and not {"params", "model", "optimizer_dict"} & options.keys():
        optimizer([lone], **options)
    try:
        transformers.get_scheduler(
            arguments.lr_scheduler_type,
            optimizer=torch.optim.SGD([lone], lr=1.0),
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
        )
    except (TypeError, ValueError) as error:
        raise MethodError(
            f"schedule = {arguments.lr_scheduler_type.value!r} cannot be made ({error}); give what "
            "it needs as --trainer.lr_scheduler_kwargs '{NAME: VALUE}', or choose another"
        ) from error


def _check_best(arguments: TrainingArguments, prepared: PreparedTask) -> None:
    """Refuse to choose a checkpoint by what no evaluation in training gives."""
    given = [name for name in prepared.reported_metrics if prepared.form in METRICS[name].forms]
    asked = arguments.metric_for_best_model
    if asked is not None and asked.removeprefix("eval_") not in ("loss", *given):
        raise MethodError(
            f"trainer.metric_for_best_model = {asked!r}: expected one of "
            f"{', '.join(('loss', *given))}, which an evaluation in training gives"
        )


def _refused(error: Exception) -> str:
    return f"the Trainer refuses its arguments: {error}"


def _check_new(folder: RunFolder) -> None:
    """Refuse to write over a run."""
    _refuse_finished(folder)
    if _newest(folder) is not None:
        raise MethodError(
            f"{folder.checkpoints} holds checkpoints of an unfinished run; go on with --resume, "
            "choose another --output, or delete it"
        )
    if folder.adapter.exists():
        raise MethodError(
            f"{folder.adapter} is there already, and would be replaced; choose another --output"
        )


def _resumed_from(folder: RunFolder) -> Path | None:
    """The checkpoint to go on from; None if the run was stopped before the first one.

    Raises:
        MethodError: There is no such run, it is finished, or it is another one.
    """
    _refuse_finished(folder)
    there = RunFolder.read(folder.path)
    old, new = there.options(), folder.options()
    for name in sorted(old.keys() | new.keys()):
        if name not in FREE_ON_RESUME and old.get(name) != new.get(name):
            raise MethodError(
                f"{there.description} has {name} = {old.get(name)!r}, this run {new.get(name)!r}; "
                f"a run goes on with its own options: {there.resume}"
            )
    return _newest(folder)


def _start_notice(start: Path | None) -> str:
    return f"going on from {start}" if start else "no complete checkpoint: starting at step 0"


def _refuse_finished(folder: RunFolder) -> None:
    if folder.result.exists():
        raise MethodError(
            f"{folder.path} already holds a finished run; choose another --output, or delete it"
        )


def _newest(folder: RunFolder) -> Path | None:
    return checkpoint.newest_complete(folder.checkpoints)
