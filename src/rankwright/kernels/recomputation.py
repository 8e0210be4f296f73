"""Origins of tensors, from which they are recomputed in the backward instead of kept.

An adapted layer needs its input again in the backward. The output of a norm or an activation is a
cheap function of tensors that the graph keeps anyway: such an origin is noted for as long as the
tensor lives, and the layer keeps the origin instead of the tensor (`lowrank_linear`).
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
        compute: The function; it returns the same bits every time.
        inputs: Its arguments. The layer keeps them: use tensors that the graph keeps anyway.
        autocast: The dtype that autocast computed in; None without autocast.
    """

    compute: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    autocast: torch.dtype | None = None

    def again(self, inputs: Sequence[Tensor]) -> Tensor:
        """Recompute the tensor; differentiable where gradients are enabled.

        Args:
            inputs: `self.inputs`, as unpacked from the graph.
        """
        device = inputs[0].device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            return self.compute(*inputs)


_noted = cast(MutableMapping[Tensor, tuple[Origin, list[int]]], WeakTensorKeyDictionary())


def note(tensor: Tensor, compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """Note that `tensor` is `compute(*inputs)`; call it under the autocast that `tensor` saw.

    Args:
        tensor: The computed tensor.
        compute: See `Origin`.
        inputs: See `Origin`.
    """
    origin = Origin(compute, tuple(inputs), autocast_dtype(tensor))
    _noted[tensor] = (origin, _versions(tensor, origin))


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast computes in on the tensor's device; None without autocast."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def transformed() -> bool:
    """Return whether `torch.compile`, `torch.func` or forward mode is active.

    These support only PyTorch's own operations, so our functions fall back to them. Nothing is
    noted or cached either, because tensors have no version there.
    """
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    functional = torch._C._are_functorch_transforms_active()
    return torch.compiler.is_compiling() or functional or forward_mode


def origin_of(tensor: Tensor) -> Origin | None:
    """Return the origin noted for this tensor; None if there is none, or it no longer holds.

    It no longer holds once the tensor, or an input of its origin, is written to.
    """
    origin, versions = _noted.get(tensor, (None, []))
    return origin if origin is not None and versions == _versions(tensor, origin) else None


def _versions(tensor: Tensor, origin: Origin) -> list[int]:
    return [t._version for t in (tensor, *origin.inputs)]
