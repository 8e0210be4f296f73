"""Base class of modules that replace a LoRA factor.

PEFT creates an `nn.Linear` for A (r, in) and for B (out, r). A layer part may replace it by a
`Factor`, whose weight is computed from other tensors. PEFT and every export read `weight`, so the
saved adapter is an ordinary LoRA. Checkpoints of a run also store the module's parameters and
buffers (:mod:`rankwright.peft_layers.layer_state`), so subclasses resume exactly without code of
their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rankwright.kernels.fused_linear import Factors


class Factor(nn.Module, ABC):
    """A factor whose weight is a function of its parameters and buffers.

    Attributes:
        live: The parameter of PEFT's factor, (r, in) for A and (out, r) for B.
        axis: Dimension of `live` that counts ranks: 0 for A, 1 for B.
        width: Number of leading ranks of `live` in use.

    Args:
        linear: PEFT's factor; its weight becomes `live`.
        axis: See above.
    """

    weight_is_state: ClassVar[bool] = False
    """Whether `weight`, and so the adapter's file, is all that a resumed run needs."""

    other_shape: ClassVar[str] = "load it with PeftModel.from_pretrained"
    """Advice in the error message for an adapter whose factor has another shape."""

    live: nn.Parameter

    def __init__(self, linear: nn.Linear, axis: int = 0) -> None:
        super().__init__()
        self.live = cast(nn.Parameter, linear.weight)
        self.axis = axis
        self.width = self.live.shape[axis]

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The factor, (r, in) or (out, r), in the dtype of `live`."""

    @property
    def trained(self) -> nn.Parameter | None:
        """The parameter that an optimizer of pairs may treat as the factor, if there is one."""
        return None

    def take(self, weight: Tensor) -> None:
        """Take over the weight of a loaded adapter; by default nothing changes.

        `_load_from_state_dict` reports an error if `weight` differs afterwards.

        Args:
            weight: Of the shape of `self.weight`, in any dtype and on any device.
        """

    def forward(self, x: Tensor) -> Tensor:
        """The factor's product.

        Args:
            x: (..., in) for A, (..., r) for B.

        Returns:
            (..., r) for A, (..., out) for B.
        """
        return F.linear(x, self.weight)

    def factors_with(self, B: Any) -> Factors | None:
        """Both factors as operands of `kernels.fused_linear`, for a module in the place of A.

        Args:
            B: The other factor of the same layer.

        Returns:
            None if one of them overrides `forward` and so is not a plain product; PEFT's forward
            of the layer runs instead.
        """
        plain = type(B) is nn.Linear or _is_product(B)
        return Factors(self.weight, B.weight) if plain and _is_product(self) else None

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        """Only `weight`; the parameters it is computed from, of submodules too, are left out."""
        del args
        destination = {} if destination is None else destination
        self._save_to_state_dict(destination, prefix, keep_vars)
        return destination

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + "weight"] = self.weight if keep_vars else self.weight.detach()

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load a weight; one that equals the present weight up to rounding changes nothing."""
        del local_metadata, strict, unexpected_keys
        for (
            name,
            child,
        ) in self.named_children():  # so that torch, which loads them next, misses none
            child.state_dict(destination=state_dict, prefix=f"{prefix}{name}.")
        key = prefix + "weight"
        weight: Tensor | None = state_dict.get(key)
        if weight is None:
            missing_keys.append(key)
        elif weight.shape != self.weight.shape:
            error_msgs.append(
                f"{key} has shape {tuple(weight.shape)}, expected {tuple(self.weight.shape)}: "
                f"{self.other_shape}"
            )
        elif self.weight_is_state or not _same(weight, self.weight):
            self.take(weight)
            if not _same(weight, self.weight):
                error_msgs.append(
                    f"{key}: {type(self).__name__} computes its weight from other parameters and "
                    "cannot take this one; load it with PeftModel.from_pretrained, or override "
                    f"{type(self).__name__}.take"
                )


def _is_product(module: nn.Module) -> bool:
    return isinstance(module, Factor) and type(module).forward is Factor.forward


def _same(given: Tensor, present: Tensor) -> bool:
    """Whether two weights differ by no more than rounding on another device."""
    given = given.to(present)
    rounding = 16 * torch.finfo(present.dtype).eps
    return torch.allclose(given, present, rtol=rounding, atol=0.0, equal_nan=True)
