"""A run and a forward that are only logits, for tests of penalties on outputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def fake(
    z: Tensor,
    base: Tensor,
    labels: Tensor | None = None,
    *,
    task: str = "CAUSAL_LM",
    step: int = 0,
    total_steps: int = 1,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """What `Outputs` uses of a run and of a forward.

    Args:
        z: Logits of the model in training, (rows, classes) or (rows, positions, vocabulary).
        base: Logits of the base model.
        labels: (rows, positions).
        task: PEFT's name of the task.
        step: Step in hand.
        total_steps: Steps of the run.
        kwargs: Inputs of the model.
    """
    noted: dict[str, float] = {}
    said: list[str] = []
    run = SimpleNamespace(
        step=step,
        total_steps=total_steps,
        processes=1,
        adapter_name="default",
        model=SimpleNamespace(
            peft_config={"default": SimpleNamespace(task_type=task)},
            config=SimpleNamespace(is_encoder_decoder=task == "SEQ_2_SEQ_LM"),
            get_base_model=SimpleNamespace,
        ),
        gather=lambda rows: rows,
        base_logits=lambda _forward, where: base if where is None else base[where],
        note=lambda name, value: noted.update({name: float(value.detach())}),
        say_once=lambda text: said.append(text),
        noted=noted,
        said=said,
    )
    forward = SimpleNamespace(
        by_position=z.ndim == 3,
        labels=labels,
        kwargs=kwargs,
        everywhere=torch.ones(z.shape[:2], dtype=torch.bool),
        logits=lambda where: z if where is None else z[where],
    )
    return run, forward
