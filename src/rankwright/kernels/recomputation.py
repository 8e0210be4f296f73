"""Where a tensor comes from, so that it can be computed again where it would have to be kept.

An adapted layer needs its input once more in the backward. What a norm or an activation gave is a
cheap function of tensors that the graph keeps anyway: such an origin is noted beside the tensor,
for as long as the tensor lives, and the layer keeps the origin instead (`lowrank_linear`).
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True)
class Origin:
    """A tensor as a pure function of others.

    Attributes:
        compute: Gives the tensor; deterministic, the same bits every time.
        inputs: What it is called with; kept by the graph, so to be such tensors as it keeps anyway.
        autocast: What autocast computed in; None without autocast.
    """

    compute: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    autocast: torch.dtype | None = None

    def again(self, inputs: Sequence[Tensor]) -> Tensor:
        """The tensor; differentiable where gradients are on.

        Args:
            inputs: `self.inputs`, as the graph gave them back.
        """
        device = inputs[0].device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            return self.compute(*inputs)


_noted = cast(MutableMapping[Tensor, tuple[Origin, list[int]]], WeakTensorKeyDictionary())


def note(tensor: Tensor, compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """Say that `tensor` is `compute(*inputs)`; inside the autocast that it was computed under.

    Args:
        tensor: What was computed.
        compute: See `Origin`.
        inputs: See `Origin`.
    """
    origin = Origin(compute, tuple(inputs), autocast_dtype(tensor))
    _noted[tensor] = (origin, _versions(tensor, origin))


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What autocast computes in on the tensor's device; None without autocast."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def transformed() -> bool:
    """Whether `torch.compile`, `torch.func` or forward mode is at work.

    They see through PyTorch's own operations only: functions of ours step back to these, and
    nothing is noted or remembered, for tensors have no version there.
    """
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    functional = torch._C._are_functorch_transforms_active()
    return torch.compiler.is_compiling() or functional or forward_mode


def origin_of(tensor: Tensor) -> Origin | None:
    """What was noted of this very tensor; None if nothing was, or it no longer holds.

    It does not once the tensor, or one that it was computed from, was written to.
    """
    origin, versions = _noted.get(tensor, (None, []))
    return origin if origin is not None and versions == _versions(tensor, origin) else None


def _versions(tensor: Tensor, origin: Origin) -> list[int]:
    return [t._version for t in (tensor, *origin.inputs)]
