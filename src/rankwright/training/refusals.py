"""What a method cannot be trained under, refused when the trainer is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import TrainingArguments

from rankwright.core.errors import MethodError
from rankwright.core.layer_state import layer_state
from rankwright.core.method import Method
from rankwright.core.part import Procedure
from rankwright.core.run import Run, adapted_layers


def check_reference(init: Callable[..., None], args: Sequence[Any], kwargs: Any) -> None:
    """Refuse to let a preference trainer copy an adapter that PEFT did not make."""
    signature = inspect.signature(init)
    given = signature.bind_partial(*args, **kwargs).arguments
    model = given.get("model")
    copied = "ref_model" in signature.parameters and given.get("ref_model") is None
    if not copied or not isinstance(model, PeftModel):
        return
    for name, layer in adapted_layers(model).items():
        kind = type(layer.lora_A[model.active_adapter])
        if kind is not nn.Linear:
            raise MethodError(
                "ref_model is None, so the trainer would copy the adapter as its reference, and "
                f"{name} has a {kind.__name__} it cannot copy; pass the base model as ref_model: "
                "the model without its adapter, loaded once more"
            )


def check_layer_state(args: TrainingArguments, run: Run) -> None:
    """Refuse to shard what checkpoints have to hold whole."""
    kept = layer_state(run.layers, run.adapter_name)
    if kept and (args.deepspeed or args.fsdp):
        raise MethodError(
            f"{run.method.label} keeps {next(iter(kept))} beside the adapter, which deepspeed and "
            "fsdp shard; use one process or DistributedDataParallel"
        )


def check_engine(args: TrainingArguments, method: Method) -> None:
    """Refuse, before any time is spent, what optimizer, penalty and procedure cannot run under."""
    slots = method.made_of()
    optimizer, penalty = slots.optimizer, slots.penalty
    if args.n_gpu > 1:  # each GPU takes the mean over its own targets, which differ in number
        raise MethodError(
            f"{method.label} does not run under DataParallel, which the Trainer takes where one "
            f"process sees several GPUs ({args.n_gpu} here); start one process a GPU with "
            "torchrun, or let it see one with CUDA_VISIBLE_DEVICES=0"
        )
    divided = args.deepspeed or args.fsdp
    if penalty is not None and penalty.reads_outputs() and divided:
        raise MethodError(
            f"a penalty of {method.label} calls the model beside the Trainer, which deepspeed "
            "and fsdp divide; use one process or DistributedDataParallel"
        )
    if optimizer is not None and not optimizer.sharded and (args.deepspeed or args.fsdp):
        raise MethodError(
            f"the optimizer of {method.label} needs whole factors, which deepspeed and fsdp shard; "
            "use one process or DistributedDataParallel"
        )
    if type(method.made_of().procedure) is Procedure:
        return
    if args.deepspeed or args.fsdp:
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
