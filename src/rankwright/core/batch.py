"""One batch as a part sees it, and some rows of a batch of any structure.

A batch is a tensor with one row an example, or a mapping, list or tuple of such. Numbers, None and
tensors without dimensions may stand between them; they belong to no row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rankwright.errors import MethodError

_OF_NO_ROW = (bool, int, float, type(None))


@dataclass
class MicroBatch:
    """A batch as a part sees it.

    Attributes:
        inputs: Inputs of the model, on the model's device.
        random_state: Random state before the first forward, for exact replay; None if not kept.
        scale: Number of targets of the step, by which the engine weights the losses of its
            micro-batches so that they sum to the step's loss; None for the batch alone.
        held_out: Whether it comes from `Run.held_out`; only training batches carry penalties.
        whole: The micro-batch from which its rows were taken; None if it is whole.
        share: Number of its rows over that of `whole`.
    """

    inputs: Any
    random_state: list[Tensor] | None = None
    scale: Any = None
    held_out: bool = False
    whole: MicroBatch | None = None
    share: float = 1.0


def number_of_rows(inputs: Any) -> int:
    """Return the number of rows of a batch.

    Raises:
        MethodError: It contains an object without rows, or tensors of different length.
    """
    lengths: dict[str, int] = {}

    def note(tensor: Tensor, name: str) -> Tensor:
        lengths[name] = len(tensor)
        return tensor

    _each(inputs, note, "the batch")
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{length} in {name}" for name, length in lengths.items())
        raise MethodError(
            "a share of a batch needs tensors with one row an example each, and their lengths "
            f"differ: {found or 'there is none'}; take whole batches (fd_share=1)"
        )
    return next(iter(lengths.values()))


def take_rows(inputs: Any, rows: Tensor) -> Any:
    """Return rows of a batch.

    Args:
        inputs: The batch; `number_of_rows` checks it.
        rows: Indices of the rows, int64.

    Returns:
        Copies of the rows in the same structure; a mapping becomes a dict.
    """
    return _each(inputs, lambda t, _name: t.index_select(0, rows.to(t.device)), "the batch")


def _each(inputs: Any, change: Callable[[Tensor, str], Tensor], name: str) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs, name) if inputs.ndim else inputs
    if isinstance(inputs, Mapping):
        return {key: _each(value, change, repr(key)) for key, value in inputs.items()}
    if isinstance(inputs, list | tuple) and any(isinstance(v, Tensor | Mapping) for v in inputs):
        parts = [_each(value, change, f"entry {i}") for i, value in enumerate(inputs)]
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else type(inputs)(parts)
    if isinstance(inputs, _OF_NO_ROW):
        return inputs
    raise MethodError(
        "a share of a batch needs tensors with one row an example, and "
        f"{name} is a {type(inputs).__name__}; let the collator make tensors, or take whole "
        "batches (fd_share=1)"
    )
