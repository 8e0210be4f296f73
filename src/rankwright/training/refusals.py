"""Refuse trainers and arguments that a method cannot be trained under, at construction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import TrainingArguments

from rankwright.core.method import Method
from rankwright.core.run import Run
from rankwright.core.slots import Procedure, ProcedureState
from rankwright.errors import MethodError
from rankwright.peft_layers.layer_state import layer_state
from rankwright.peft_layers.layers import adapted_layers
from rankwright.training.trl import UNSUPPORTED, explain_adapter_copy, generates, trl_class_names


def check_class(trainer_class: type) -> None:
    """Refuse trainers that support no method."""
    for name in trl_class_names(trainer_class) & UNSUPPORTED.keys():
        raise MethodError(f"{name} takes no method: {UNSUPPORTED[name]}")


def check_rows(trainer: Any, method: Method, procedure: ProcedureState) -> None:
    """Refuse to split the rows of a trainer that generates, or orders, what it trains on."""
    name, divides = type(trainer).__name__.removesuffix("WithMethod"), procedure.restricts_rows
    if (divides or procedure.asks_held_out) and generates(trainer):
        wish = "learns from held-out rows" if procedure.asks_held_out else "divides the rows"
        raise MethodError(
            f"{method.label} {wish}, and {name} generates the completions that it trains on, in "
            "its own order of prompts: its rows have no loss. Use a method that trains on all "
            "rows, or SFTTrainer or DPOTrainer on rows with completions"
        )
    strategy = trainer.args.train_sampling_strategy
    if divides and strategy != "random":
        raise MethodError(
            f"train_sampling_strategy={strategy!r}: the phases of {method.label} draw their own "
            f"rows, at random; leave it at 'random' for {name}{_with_random(trainer)}"
            f"{', or pass a held_out_dataset of your own' if procedure.asks_held_out else ''}"
        )


def _with_random(trainer: Any) -> str:
    kto = ", with a loss_type that estimates no KL term: 'apo_zero_unpaired'"
    return kto if "KTOTrainer" in trl_class_names(type(trainer)) else ""


def check_reference(
    trainer_class: type, init: Callable[..., None], args: Sequence[Any], kwargs: Any
) -> None:
    """Refuse to let a preference trainer copy an adapter with modules that are not PEFT's.

    Args:
        trainer_class: The trainer's class.
        init: Its constructor, bound.
        args: Positional arguments of the constructor.
        kwargs: Its keyword arguments.
    """
    signature = inspect.signature(init)
    given = signature.bind_partial(*args, **kwargs).arguments
    model = given.get("model")
    if not isinstance(model, PeftModel):
        return
    why, remedy = explain_adapter_copy(trainer_class, given.get("args"))
    if "ref_model" in signature.parameters and given.get("ref_model") is None:
        why = "ref_model is None"
        remedy = "pass the base model as ref_model: the model without its adapter, loaded once more"
    if not why:
        return
    for name, layer in adapted_layers(model).items():
        kind = type(layer.lora_A[model.active_adapter])
        if kind is not nn.Linear:
            raise MethodError(
                f"{why}, so the trainer would copy the adapter as its reference, and {name} has a "
                f"{kind.__name__} it cannot copy; {remedy}"
            )


def check_unrecorded(trainer: Any, method: Method) -> None:
    """Refuse a trainer that bypasses `compute_loss` under a method that has to see its batches.

    Args:
        trainer: The trainer, after a step in which `compute_loss` was not called.
        method: The method in training.

    Raises:
        MethodError: A penalty reads outputs, or the procedure evaluates batches again.
    """
    penalty = trainer.run.slots.penalty
    reads = penalty is not None and penalty.reads_outputs()
    if reads or trainer.run.procedure.replays:
        raise MethodError(
            f"{type(trainer).__name__.removesuffix('WithMethod')} does not compute its loss in "
            f"compute_loss, where {method.label} would see its batches; use another trainer, or a "
            "method without a penalty on outputs and without a second level"
        )


def check_layer_state(args: TrainingArguments, run: Run) -> None:
    """Refuse to shard state that checkpoints have to store whole."""
    kept = layer_state(run.layers, run.adapter_name)
    if kept and (args.deepspeed or args.fsdp):
        raise MethodError(
            f"{run.label} keeps {next(iter(kept))} beside the adapter, which deepspeed and "
            "fsdp shard; use one process or DistributedDataParallel"
        )


def check_arguments(args: TrainingArguments, method: Method) -> None:
    """Refuse arguments that the optimizer, penalty or procedure cannot run under."""
    slots = method.made_of()
    optimizer, penalty = slots.optimizer, slots.penalty
    if args.n_gpu > 1:  # each GPU takes the mean over its own targets, which differ in number
        raise MethodError(
            f"{method.label} does not run under DataParallel, which the Trainer uses if one "
            f"process sees several GPUs ({args.n_gpu} here); start one process per GPU with "
            "torchrun, or let it see only one with CUDA_VISIBLE_DEVICES=0"
        )
    divided = bool(args.deepspeed or args.fsdp)
    if penalty is not None and penalty.reads_outputs() and divided:
        raise MethodError(
            f"a penalty of {method.label} calls the model beside the Trainer, which deepspeed "
            "and fsdp divide; use one process or DistributedDataParallel"
        )
    if optimizer is not None and not optimizer.sharded and divided:
        raise MethodError(
            f"the optimizer of {method.label} needs whole factors, which deepspeed and fsdp shard; "
            "use one process or DistributedDataParallel"
        )
    if type(slots.procedure) is Procedure:
        return
    if divided:
        raise MethodError(
            f"{method.label} changes gradients and optimizer state between steps, which deepspeed "
            "and fsdp shard; use one process or DistributedDataParallel"
        )
    if args.auto_find_batch_size:
        raise MethodError(
            f"auto_find_batch_size starts training over with weights and phases of {method.label} "
            "that are under way; set per_device_train_batch_size, and gradient_accumulation_steps "
            "for what does not fit"
        )
    if args.fp16:
        raise MethodError(f"{method.label} does not run with fp16 loss scaling; use bf16")
