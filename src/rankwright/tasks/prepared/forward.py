"""Run a model over tokenised rows without a trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset

Reduce = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@contextmanager
def inference(model: torch.nn.Module) -> Iterator[torch.device]:
    """Turn dropout and gradients off within the block; yield the device of the model."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(training)


def by_length(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of row indices, longest rows first.

    Rows of similar length waste little padding, and a batch that does not fit fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def forward_rows(
    model: torch.nn.Module,
    data: Dataset,
    collator: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]],
    reduce: Reduce,
    batch_size: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the reduced logits and the labels of every row, in row order.

    Args:
        model: Any model whose output has `logits`.
        data: Tokenised rows.
        collator: Makes a batch, `labels` included, of a list of rows.
        reduce: Maps a batch of logits and labels to `(rows, ...)`.
        batch_size: Rows per forward pass.
    """
    rows: list[dict[str, Any]] = data.to_list()
    reduced: dict[int, np.ndarray] = {}
    labels: dict[int, np.ndarray] = {}
    with inference(model) as device:
        for indices in by_length([len(row["input_ids"]) for row in rows], batch_size):
            batch = {k: v.to(device) for k, v in collator([rows[i] for i in indices]).items()}
            target = batch.pop("labels")
            result = reduce(model(**batch).logits, target).cpu().numpy()
            reduced |= zip(indices, result, strict=True)
            labels |= zip(indices, target.cpu().numpy(), strict=True)
    return [reduced[i] for i in range(len(rows))], [labels[i] for i in range(len(rows))]


def first(logits: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the logits, which a `Trainer` passes in a tuple if the model has further outputs."""
    return logits if isinstance(logits, torch.Tensor) else logits[0]
