"""Dropout from a seed: drawn once more in the backward instead of kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def new_seed() -> int:
    """A seed from the global CPU generator, so that a replay of its state draws it again."""
    return int(torch.randint(2**31 - 1, ()).item())


def dropped_places(numel: int, p: float, seed: int, device: torch.device) -> Tensor:
    """Which entries dropout sets to zero: a pure function of the arguments and the type of device.

    The gaps between them are drawn, geometrically distributed, instead of a number for every entry:
    p numel draws, and every entry is dropped with probability p independently of the others.

    Args:
        numel: Number of entries.
        p: Dropout probability.
        seed: Of the draw.
        device: Where.

    Returns:
        Ascending places, int64; `numel` for those beyond the end.
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
    """Dropout: entries set to zero with probability p, the others divided by 1 - p.

    Args:
        x: Any shape.
        p: Dropout probability, up to 1.
        seed: Of the mask.

    Returns:
        A new tensor of the same shape.
    """
    return drop_at(x, p, dropped_places(x.numel(), p, seed, x.device))


def drop_at(x: Tensor, p: float, places: Tensor) -> Tensor:
    """`drop` with the places at hand.

    Args:
        x: Any shape.
        p: Dropout probability, up to 1.
        places: What `dropped_places` gave for it.

    Returns:
        A new tensor of the same shape.
    """
    return zero_at(places, x.shape, x, lambda out: torch.mul(x, kept_scale(p), out=out))


def zero_at(
    places: Tensor, shape: Sequence[int], like: Tensor, write: Callable[[Tensor], Any]
) -> Tensor:
    """A new tensor that is zero at some places.

    Args:
        places: What `dropped_places` gave for it.
        shape: Of the tensor.
        like: Its dtype and device.
        write: Fills the tensor that it is given; the zeros come after it.
    """
    buffer = like.new_empty(math.prod(shape) + 1)  # one more, for the places beyond the end
    tensor = buffer[:-1].view(shape)
    write(tensor)
    buffer.index_fill_(0, places, 0.0)
    return tensor


def kept_scale(p: float) -> float:
    """What is kept is multiplied by this; nothing is kept at p = 1.

    Args:
        p: Dropout probability, up to 1.
    """
    return 1 / (1 - p) if p < 1 else 0.0


def keep_mask(shape: torch.Size, p: float, seed: int, like: Tensor) -> Tensor:
    """The mask that `drop` multiplies by, as a tensor: 0, or 1 / (1 - p).

    Args:
        shape: Of the mask.
        p: Dropout probability, up to 1.
        seed: Of the mask.
        like: Its dtype and device.
    """
    return drop(like.new_ones(shape), p, seed)
