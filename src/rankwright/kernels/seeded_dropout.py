"""Dropout from a seed: drawn again in the backward instead of kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def new_seed() -> int:
    """Draw a seed from the global CPU generator, so that a replay of its state draws it again."""
    return int(torch.randint(2**31 - 1, ()).item())


def dropped_places(numel: int, p: float, seed: int, device: torch.device) -> Tensor:
    """Return which entries dropout sets to zero, as a pure function of arguments and device type.

    Instead of a number for every entry, the gaps between dropped entries are drawn from their
    geometric distribution: about p numel draws, and every entry is still dropped with probability
    p, independently of the others.

    Args:
        numel: Number of entries.
        p: Dropout probability.
        seed: Seed of the draw.
        device: Device of the draw and of the result.

    Returns:
        Ascending places, int64; `numel` stands for every place beyond the end.
    """
    if p >= 1:
        return torch.arange(numel, device=device)
    mean, deviation = numel * p, math.sqrt(numel * p * (1 - p))
    draws = min(numel, int(mean + 7 * deviation + 16))  # too few once in 10^12 times
    generator = torch.Generator(device).manual_seed(seed)
    u = torch.rand(draws, generator=generator, device=device)
    gaps = u.neg_().log1p_().mul_(1 / math.log1p(-p)).to(torch.int64).add_(1)
    return gaps.cumsum(0).sub_(1).clamp_(max=numel)


def drop(x: Tensor, p: float, seed: int) -> Tensor:
    """Set entries to zero with probability p, and divide the others by 1 - p.

    Args:
        x: Any shape.
        p: Dropout probability, up to 1.
        seed: Seed of the mask.

    Returns:
        A new tensor of the same shape.
    """
    return drop_at(x, p, dropped_places(x.numel(), p, seed, x.device))


def drop_at(x: Tensor, p: float, places: Tensor) -> Tensor:
    """Compute `drop` from places that are drawn already.

    Args:
        x: Any shape.
        p: Dropout probability, up to 1.
        places: The result of `dropped_places` for x.

    Returns:
        A new tensor of the same shape.
    """
    return zero_at(places, x.shape, x, lambda out: torch.mul(x, kept_scale(p), out=out))


def zero_at(
    places: Tensor, shape: Sequence[int], like: Tensor, write: Callable[[Tensor], Any]
) -> Tensor:
    """Return a new tensor that is zero at some places.

    Args:
        places: The result of `dropped_places` for it.
        shape: The shape of the tensor.
        like: A tensor of the wanted dtype and device.
        write: A function that fills the tensor that it is called with; the zeros are set after it.
    """
    # one extra entry takes the zeros of the places beyond the end
    buffer = like.new_empty(math.prod(shape) + 1)
    tensor = buffer[:-1].view(shape)
    write(tensor)
    buffer.index_fill_(0, places, 0.0)
    return tensor


def kept_scale(p: float) -> float:
    """Return the factor of the entries that are kept, 1 / (1 - p); 0 at p = 1, where none is.

    Args:
        p: Dropout probability, up to 1.
    """
    return 1 / (1 - p) if p < 1 else 0.0


def keep_mask(shape: torch.Size, p: float, seed: int, like: Tensor) -> Tensor:
    """Return the mask that `drop` multiplies by: entries of 0 or 1 / (1 - p).

    Args:
        shape: The shape of the mask.
        p: Dropout probability, up to 1.
        seed: Seed of the mask.
        like: A tensor of the wanted dtype and device.
    """
    return drop(like.new_ones(shape), p, seed)
