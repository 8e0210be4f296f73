"""Optimizer groups of the trained parameters, and gradient clipping."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rankwright.errors import MethodError

if TYPE_CHECKING:
    from peft import PeftModel

    from rankwright.core.slots import ProcedureState

logger = logging.getLogger(__name__)


def parameter_groups(
    trained: dict[str, nn.Parameter],
    model: PeftModel,
    procedure: ProcedureState,
    *,
    lr: float,
    weight_decay: float,
    head_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Return optimizer groups: one for each role, split by weight decay and by head.

    Args:
        trained: Trained parameters by name.
        model: The adapted model.
        procedure: Assigns a role to each parameter, and options to each role.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of the matrices.
        head_lr: Learning rate of heads (`is_head`); None for `lr`.

    Raises:
        MethodError: No parameter is trained.
    """
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    for name, parameter in trained.items():
        role, decayed, head = procedure.role(name), decays(name, parameter), is_head(name, model)
        if (role, decayed, head) not in groups:
            groups[role, decayed, head] = {
                "params": [],
                "role": role,
                "lr": head_lr if head and head_lr is not None else lr,
                "weight_decay": weight_decay if decayed else 0.0,
                **procedure.group_options(role),
            }
        groups[role, decayed, head]["params"].append(parameter)
    if not groups:
        raise MethodError(
            "no parameter of the model requires a gradient; call method.apply(model) and do "
            "not freeze the adapter before training"
        )
    return list(groups.values())


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: to matrices, not to biases, norms, magnitudes."""
    return parameter.ndim > 1 and "lora_magnitude_vector" not in name


def clipping(optimizer: torch.optim.Optimizer, max_grad_norm: float | None) -> float | None:
    """Return the norm to which an engine clips gradients; None for no clipping.

    Logs that `max_grad_norm` has no effect if the optimizer has `owns_clipping`.
    """
    if not max_grad_norm or not getattr(optimizer, "owns_clipping", False):
        return max_grad_norm or None
    logger.warning(
        "max_grad_norm = %s is switched off: %s limits its steps by itself, and needs the "
        "gradients as they are",
        *(max_grad_norm, type(optimizer).__name__),
    )
    return None


def is_head(name: str, model: PeftModel) -> bool:
    """Return whether a parameter is trained in full and outside the pretrained body."""
    body = getattr(model.get_base_model(), "base_model_prefix", "")
    return ".modules_to_save." in name and not (body and f".{body}." in name)
