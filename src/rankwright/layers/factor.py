"""The base class of a module that stands in the place of a factor of LoRA.

PEFT makes an `nn.Linear` for A (r, in) and for B (out, r). A layer part may put a `Factor` there,
whose weight is computed from other tensors. PEFT and every export see `weight`, so what is saved is
an ordinary LoRA. Checkpoints of a run hold the module's parameters and buffers as well
(:mod:`rankwright.core.layer_state`): a subclass has nothing to do for an exact resume.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rankwright.core.fused import Factors


class Factor(nn.Module, ABC):
    """A factor whose weight is a function of its parameters and buffers.

    Attributes:
        live: The parameter of the factor that PEFT made, (r, in) for A and (out, r) for B.
        axis: Which dimension of `live` counts ranks: 0 for A, 1 for B.
        width: How many ranks of `live` are in use, its first ones.

    Args:
        linear: The factor that PEFT made; its weight becomes `live`.
        axis: See above.
    """

    weight_is_state: ClassVar[bool] = False
    """Whether `weight`, hence the adapter's file, has all that a resumed run needs."""

    other_shape: ClassVar[str] = "load it with PeftModel.from_pretrained"
    """What to do with an adapter whose factor has another shape, for the error message."""

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
        """The parameter that an optimizer of pairs may move as the factor itself; None: no."""
        return None

    def take(self, weight: Tensor) -> None:
        """Become the factor `weight`, which an adapter that is loaded has; by default it cannot.

        Args:
            weight: As `weight` in shape; another dtype or device is possible.
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
        """Both factors for `core.fused`, where this one is A.

        Args:
            B: The other factor of the same layer.

        Returns:
            None where one of them is no plain product, having a forward of its own: PEFT's forward
            of the layer calls it.
        """
        plain = type(B) is nn.Linear or _is_product(B)
        return Factors(self.weight, B.weight) if plain and _is_product(self) else None

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + "weight"] = self.weight if keep_vars else self.weight.detach()

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take another weight; one that is the same but for rounding leaves all as it is."""
        del local_metadata, strict, unexpected_keys
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
    """Whether two weights differ by no more than the rounding of another device."""
    given = given.to(present)
    rounding = 16 * torch.finfo(present.dtype).eps
    return torch.allclose(given, present, rtol=rounding, atol=0.0, equal_nan=True)
