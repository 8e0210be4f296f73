"""Train one adapter as described and leave a folder that tells everything about it."""

from __future__ import annotations

import difflib
import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from rankwright.core.errors import MethodError
from rankwright.core.method import Method
from rankwright.job.config import TrainConfig
from rankwright.job.load import RunFolder, load_base, load_tokenizer, write_json
from rankwright.tasks import PreparedTask
from rankwright.training import Trainer, checkpoint
from rankwright.training.cost import Cost

CallbackFactory = Callable[[Trainer], TrainerCallback]
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
        seconds: Wall time from start to end, evaluation included.
        versions: Versions of what computed it.
        interrupted: Whether SIGTERM stopped the run; there are no `after` metrics then.
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


def train(
    config: TrainConfig,
    method: Method,
    *,
    resume: bool = False,
    callback: CallbackFactory | None = None,
) -> tuple[RunFolder, RunResult]:
    """Run the job.

    Args:
        config: The run.
        method: The method.
        resume: Go on from the newest complete checkpoint of the run's folder.
        callback: Makes a Trainer callback, such as a progress bar.

    Returns:
        The run's folder with adapter, description and result, and the result.

    Raises:
        MethodError: The description cannot be carried out; nothing was trained.
        TaskError: The data is not what the task declares.
        TrainingError: Training failed; the message names the last good checkpoint.
    """
    started = time.perf_counter()
    task = config.make_task()
    folder = RunFolder(_output(config, method, task.name), config, method)
    if not resume and folder.result.exists():
        raise MethodError(
            f"{folder.path} already holds a finished run; choose another --output, or delete it"
        )
    prepared = task.prepare(load_tokenizer(config.model))
    model = method.apply(load_base(config.model, prepared, config.seed), seed=config.seed)
    rows = _train_rows(prepared, config)
    arguments = training_arguments(config, folder, len(rows))
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,
        data_collator=prepared.collator,
        processing_class=prepared.tokenizer,
        method=method,
    )
    trainer.remove_callback(PrinterCallback)
    if callback is not None:
        trainer.add_callback(callback(trainer))
    folder.write_description()
    before = _evaluate(prepared, model, config, "validation")
    if not resume:
        _refuse_leftovers(folder)
    trainer.train(resume_from_checkpoint=_checkpoint(folder) if resume else None)
    finished = not trainer.interrupted
    result = RunResult(
        method=method.name,
        task=task.name,
        model=config.model,
        seed=config.seed,
        primary_metric=task.primary_metric,
        before=before,
        after=_evaluate(prepared, model, config, "validation") if finished else {},
        test=_evaluate(prepared, model, config, "test") if finished and prepared.test else {},
        train_rows=len(rows),
        cost=trainer.cost(),
        seconds=time.perf_counter() - started,
        versions=versions(),
        interrupted=not finished,
    )
    if finished and trainer.is_world_process_zero():
        _save(model, prepared, folder)
        write_json(folder.result, asdict(result))
    return folder, result


def training_arguments(config: TrainConfig, folder: RunFolder, rows: int) -> TrainingArguments:
    """The Trainer's arguments of a run.

    Raises:
        MethodError: `config.trainer` names something that `TrainingArguments` does not have.
    """
    known = TrainingArguments.__dataclass_fields__
    for name in config.trainer:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise MethodError(f"trainer.{name}: transformers.TrainingArguments has no {name}{hint}")
    steps = config.steps or _steps_of(config, rows)
    values: dict[str, Any] = {
        "output_dir": str(folder.checkpoints),
        "seed": config.seed,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "num_train_epochs": config.epochs,
        "max_steps": config.steps or -1,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.eval_batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.bf16,
        "gradient_checkpointing": config.gradient_checkpointing,
        "save_steps": config.save_steps or max(1, steps // 10),
        "save_total_limit": config.keep_checkpoints,
        "logging_steps": max(1, steps // 50),
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **config.trainer,
    }
    return TrainingArguments(**values)


def versions() -> dict[str, str]:
    """Versions of Python and the packages that compute a result."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _output(config: TrainConfig, method: Method, task: str) -> Path:
    name = f"{method.name}-{task.replace('/', '-')}-{config.seed}"
    return Path(config.output) if config.output else Path("runs") / name


def _steps_of(config: TrainConfig, rows: int) -> int:
    per_step = config.batch_size * config.accumulation
    return max(1, round(config.epochs * -(-rows // per_step)))


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


def _evaluate(
    prepared: PreparedTask, model: PeftModel, config: TrainConfig, split: str
) -> dict[str, float]:
    return prepared.evaluate(model, config.eval_batch_size, split=split, limit=config.eval_rows)


def _refuse_leftovers(folder: RunFolder) -> None:
    if checkpoint.newest_complete(folder.checkpoints) is not None:
        raise MethodError(
            f"{folder.checkpoints} holds checkpoints of an unfinished run; go on with --resume, "
            "choose another --output, or delete it"
        )


def _checkpoint(folder: RunFolder) -> bool:
    """Whether there is a checkpoint to go on from; without one the run starts at step 0."""
    return checkpoint.newest_complete(folder.checkpoints) is not None


def _save(model: PeftModel, prepared: PreparedTask, folder: RunFolder) -> None:
    temporary = folder.path / ".saving-adapter"
    model.save_pretrained(temporary)
    prepared.tokenizer.save_pretrained(temporary)
    checkpoint.publish(temporary, folder.adapter)
