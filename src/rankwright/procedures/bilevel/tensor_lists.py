"""Operations on lists of tensors, such as all lower parameters or their gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm over all entries of all tensors; 0-dim, float32 or wider."""
    return nn.utils.get_total_norm(widened(tensors))


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of the tensor, float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def widened(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors in float32 or wider; wide ones are not copied."""
    return [tensor.to(wide_dtype(tensor)) for tensor in tensors]


def clones(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return detached copies."""
    return [parameter.detach().clone() for parameter in parameters]


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the `.grad` of each parameter, not copied; 0 if it has none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


@torch.no_grad()
def write(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into parameters."""
    torch._foreach_copy_(tuple(parameters), tuple(values))


@contextlib.contextmanager
def restored(parameters: list[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Restore the present values at the end, by copy: subtracting a step again loses bits.

    Yields:
        Copies of the present values.
    """
    present = clones(parameters)
    try:
        yield present
    finally:
        write(parameters, present)
