"""Number of targets of a batch: the labels, or rows, over which its loss is a mean.

A step that takes its rows in several micro-batches, or on several processes, has the loss and the
gradients of one large batch if each micro-batch is weighted by its share of the step's targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rankwright.core.model_call import is_encoder_decoder

IGNORED = -100
"""The label of a position or a row that is not scored."""

_BY_ROW = ("regression", "multi_label_classification")
_IN_PLACE = ("XLNetLMHeadModel", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel")
_CAUSAL = ("LMHeadModel", "ModelWithLMHead", "DoubleHeadsModel", "BertGenerationDecoder")


def count_targets(model: nn.Module, inputs: Any, *, shifts: bool | None = None) -> Tensor:
    """Count the targets over which a model's loss of a batch is a mean.

    Targets are the labels that are not -100; a causal model does not score the first label of a
    row. If the loss is a mean over rows (regression, multiple labels per row, no labels), rows are
    counted.

    Args:
        model: The model, adapted or not.
        inputs: The batch.
        shifts: Whether the logits of a position are scored against the next label; None to decide
            by the model's class.

    Returns:
        0-dim, int64, on the device of the labels.
    """
    given = inputs if isinstance(inputs, Mapping) else {}
    labels = given.get("shift_labels", given.get("labels"))
    if not isinstance(labels, Tensor) or _by_row(model, labels):
        return _answers(inputs)
    in_place = labels.ndim < 2 or "shift_labels" in given
    if not in_place and (shifts_labels(model) if shifts is None else shifts):
        labels = labels[..., 1:]
    return labels.ne(_ignored(model)).sum()


def weigh(loss: Tensor, targets: Tensor, of_step: Tensor) -> Tensor:
    """Return a micro-batch's share of the step's loss; 0 if it has no targets.

    Args:
        loss: The mean over the micro-batch's targets, 0-dim; may be NaN if it has none.
        targets: Number of targets in the micro-batch.
        of_step: Number in the whole step, divided by the number of processes over which gradients
            are averaged.

    Returns:
        0-dim; NaN if the whole step has no targets.
    """
    targets = targets.to(loss.device)
    share = targets.to(torch.promote_types(loss.dtype, torch.float32)) / of_step.to(loss.device)
    return torch.where(targets > 0, loss, 0) * share


def nothing_scored(where: str, inputs: Any) -> str:
    """Return the error message for a step or batch without targets.

    Args:
        where: The step or batch ("step 3").
        inputs: One of its micro-batches.
    """
    labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
    tokens = isinstance(labels, Tensor) and labels.ndim > 1
    if not tokens:
        return (
            f"no row of {where} is scored: all of its labels are {IGNORED}, which the loss "
            "ignores; label the rows, or remove them from the data"
        )
    return (
        f"no token of {where} is scored: all labels of its rows are {IGNORED}, which the loss "
        "ignores. A prompt that fills the maximum length leaves no room for its completion: raise "
        "max_length, shorten the prompts, or remove such rows from the data"
    )


def shifts_labels(model: nn.Module) -> bool:
    """Return whether the logits of a position are scored against the label of the next one."""
    base = _base(model)
    if is_encoder_decoder(base):
        return False
    name, loss_type = type(base).__name__, getattr(base, "loss_type", None)
    if loss_type is None:
        return name.endswith(_CAUSAL) and name not in _IN_PLACE
    loss = getattr(base, "loss_function", None)
    return getattr(loss, "__name__", None) == "ForCausalLMLoss"


def _by_row(model: nn.Module, labels: Tensor) -> bool:
    """Whether the loss is a mean over rows, regardless of their labels."""
    config = getattr(_base(model), "config", None)
    ctc = "ForCTC" in type(_base(model)).__name__
    return labels.is_floating_point() or ctc or getattr(config, "problem_type", None) in _BY_ROW


def _ignored(model: nn.Module) -> int:
    """The label that is not scored; semantic segmentation has one of its own."""
    base = _base(model)
    if "SemanticSegmentation" not in type(base).__name__:
        return IGNORED
    return int(getattr(base.config, "semantic_loss_ignore_index", 255))


def _answers(inputs: Any) -> Tensor:
    """Count rows or, for extractive answers, the start and end positions within the row."""
    if isinstance(inputs, Mapping) and isinstance(tokens := inputs.get("input_ids"), Tensor):
        positions = [inputs.get(f"{end}_positions") for end in ("start", "end")]
        within = [p.lt(tokens.shape[1]).sum() for p in positions if isinstance(p, Tensor)]
        if within:
            return torch.stack(within).sum()
    first = _first_tensor(inputs)
    return torch.tensor(1 if first is None else len(first))


def _first_tensor(inputs: Any) -> Tensor | None:
    """The first tensor with rows in a batch of any structure."""
    if isinstance(inputs, Tensor):
        return inputs if inputs.ndim else None
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if not isinstance(parts, list | tuple):
        return None
    found = (_first_tensor(part) for part in parts)
    return next((tensor for tensor in found if tensor is not None), None)


def _base(model: nn.Module) -> Any:
    return getattr(model, "get_base_model", lambda: model)()
