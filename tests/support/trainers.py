"""Short training runs on tiny models that the tests share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from method_table import BATCH, BUILDS, ROWS, STEPS
from models import batch, causal_rows, classification_rows, rows_for
from rankwright.core.method import Method
from rankwright.training import Trainer


def base_model(kind: str, *, double: bool = False, dropout: bool = True) -> PreTrainedModel:
    """A tiny model, BERT with dropout unless told otherwise."""
    model = BUILDS[kind](**({"dropout": 0.1} if dropout and kind == "bert" else {}))
    return model.double() if double else model


def arguments(output: Path, **changes: Any) -> TrainingArguments:
    """Arguments of a run of `STEPS` steps that saves nothing."""
    values = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **changes,
    }
    return TrainingArguments(str(output), **values)


def build_trainer(
    method: Method,
    kind: str,
    output: Path,
    *,
    cls: type[Any] = Trainer,
    rows: int = ROWS,
    double: bool = False,
    dropout: bool = True,
    adapter_seed: int = 3,
    callbacks: list[TrainerCallback] | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """A trainer of `method` on a tiny model; `changes` go to its arguments."""
    base = base_model(kind, double=double, dropout=dropout)
    values = {"train_dataset": rows_for(base, rows), **(options or {})}
    trainer = cls(
        method.apply(base, seed=adapter_seed),
        arguments(output, **changes),
        method=method,
        callbacks=callbacks,
        **values,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def adapter(model: nn.Module) -> dict[str, Tensor]:
    """A copy of what `save_pretrained` would write."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def probe(kind: str) -> dict[str, Tensor]:
    """Inputs without labels, not among the training rows; draws nothing at random."""
    rows = causal_rows(3, seed=7) if kind == "llama" else classification_rows(3, seed=7)
    inputs = batch(rows)
    inputs.pop("labels")
    return inputs


@torch.no_grad()
def logits(model: nn.Module, kind: str) -> Tensor:
    """Logits on the probe in eval mode; the model's mode is left as it was."""
    training = model.training
    result: Tensor = model.eval()(**probe(kind)).logits.clone()
    model.train(training)
    return result


def digest(folder: Path) -> str:
    """Checksum of the adapter file of a folder."""
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
