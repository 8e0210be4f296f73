"""Collectives over the processes that train together; one process without a process group."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def count() -> int:
    """Return the number of processes that train together."""
    alone = not (dist.is_available() and dist.is_initialized())
    return 1 if alone else dist.get_world_size()


def average(tensors: list[Tensor]) -> list[Tensor]:
    """Return the mean of each tensor over processes, in one collective."""
    number = count()
    if number == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= number
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes in rank order, differentiable in this process's own.

    Args:
        rows: (rows of this process, columns).

    Returns:
        (rows of all processes, columns).
    """
    if count() == 1:
        return rows
    own, number = dist.get_rank(), torch.tensor([len(rows)], device=rows.device)
    numbers = [torch.empty_like(number) for _ in range(count())]
    dist.all_gather(numbers, number)
    counts = [int(each) for each in numbers]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    received = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(received, padded)
    parts = [part[:length] for part, length in zip(received, counts, strict=True)]
    return torch.cat([*parts[:own], rows, *parts[own + 1 :]])
