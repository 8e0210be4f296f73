"""The Trainer's arguments of a run: built from its options, and tried out before training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import transformers
from peft import PeftModel
from transformers import TrainingArguments

from rankwright.errors import MethodError, did_you_mean
from rankwright.job.config import TrainConfig
from rankwright.job.folder import RunFolder
from rankwright.tasks import PreparedTask
from rankwright.tasks.metrics import METRICS
from rankwright.training import Trainer

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
"""Name in TrainingArguments -> field of TrainConfig with its value."""
DERIVED = {
    "output_dir": "output",
    "max_steps": "steps",
    "save_steps": "save_steps",
    "warmup_ratio": "warmup",
    "gradient_checkpointing": "gradient_checkpointing",
}
"""Name in TrainingArguments -> field that its value is derived from, and older names."""
STRATEGIES = frozenset({"eval_strategy", "logging_strategy", "save_strategy"})
"""Arguments that may be "no", a word that YAML 1.1 reads as False."""


def training_arguments(config: TrainConfig, folder: RunFolder, rows: int) -> TrainingArguments:
    """Build the Trainer's arguments of a run.

    Raises:
        MethodError: `config.trainer` has a name that `TrainingArguments` lacks or that is an option
            of its own, or a value is out of its range.
    """
    _check_trainer_keys(config.trainer)
    steps = steps_of(config, rows)
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
        raise MethodError(refusal(error)) from error


def steps_of(config: TrainConfig, rows: int) -> int:
    """Return the number of optimizer steps of a run on `rows` training rows."""
    per_step = config.batch_size * config.accumulation
    return config.steps or max(1, round(config.epochs * -(-rows // per_step)))


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


def check_buildable(arguments: TrainingArguments, model: PeftModel, steps: int) -> None:
    """Build optimizer and schedule for a single matrix; the Trainer does so only in training.

    Raises:
        MethodError: The schedule cannot be built from its arguments.
    """
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
            f"schedule = {arguments.lr_scheduler_type.value!r} cannot be built ({error}); give its "
            "arguments as --trainer.lr_scheduler_kwargs '{NAME: VALUE}', or choose another"
        ) from error


def check_best(arguments: TrainingArguments, prepared: PreparedTask) -> None:
    """Refuse to choose a checkpoint by a metric that no evaluation in training computes.

    Raises:
        MethodError: `metric_for_best_model` is such a metric.
    """
    given = [name for name in prepared.reported_metrics if prepared.form in METRICS[name].forms]
    asked = arguments.metric_for_best_model
    if asked is not None and asked.removeprefix("eval_") not in ("loss", *given):
        raise MethodError(
            f"trainer.metric_for_best_model = {asked!r}: expected one of "
            f"{', '.join(('loss', *given))}, which an evaluation in training gives"
        )


def refusal(error: Exception) -> str:
    """Return the message about an error that the Trainer itself raised."""
    return f"the Trainer refuses its arguments: {error}"
