"""Importance of the components of a gated LoRA layer, dW = s B diag(c) A = s sum_i c_i b_i a_i^T.

`ShareScore` (DoRA-dynamic, arXiv 2405.17357): how much of the update a component is,

    q_i = |c_i b_i a_i^T|_F / |B diag(c) A|_F,      S_i <- beta S_i + (1 - beta) q_i

in closed form: |c_i| |b_i| |a_i| over the root of c^T [(B^T B) o (A A^T)] c. No (out, in) matrix is
formed; the scaling s cancels.

`SensitivityScore` (AdaLoRA, arXiv 2303.10512, equations 8 to 11): with I = |p dL/dp| of an entry p,

    Ibar <- beta1 Ibar + (1 - beta1) I,     Ubar <- beta2 Ubar + (1 - beta2) |I - Ibar|
    S_i = (Ibar Ubar)(c_i) + mean over j of (Ibar Ubar)(A_ij) + mean over j of (Ibar Ubar)(B_ji)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype

EPS = 1e-8
"""Added to the norm of an update, which is 0 while all gates are (DoRA-dynamic's code)."""


class Components(NamedTuple):
    """The parameters of a gated layer.

    Attributes:
        A: (r, in).
        B: (out, r).
        c: Gates, (r,).
    """

    A: Tensor
    B: Tensor
    c: Tensor


class Score(ABC):
    """Importance of every component, averaged over steps.

    Args:
        layers: Components by layer name.
    """

    counts_last: ClassVar[bool]
    """Whether the step of the last pruning is averaged in before it."""

    def __init__(self, layers: Mapping[str, Components]) -> None:
        self.layers = layers

    @abstractmethod
    def update(self) -> None:
        """Take in the present parameters and gradients; once a step, after the optimizer's."""

    @abstractmethod
    def values(self) -> dict[str, Tensor]:
        """Return the averaged scores, (r,) by layer name; float32 at least."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages."""


class ShareScore(Score):
    """The share of the norm of a layer's update; see the module.

    Args:
        layers: Components by layer name.
        beta: Weight of the past in the average.
    """

    counts_last = True

    def __init__(self, layers: Mapping[str, Components], beta: float) -> None:
        super().__init__(layers)
        self._beta = beta
        self._average = {
            name: torch.zeros_like(part.c, dtype=compute_dtype(part.c))
            for name, part in layers.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """See `Score.update`."""
        for name, part in self.layers.items():
            self._average[name].lerp_(norm_shares(*part), 1 - self._beta)

    def values(self) -> dict[str, Tensor]:
        """See `Score.values`."""
        return self._average

    def state_dict(self) -> dict[str, Any]:
        """See `Score.state_dict`."""
        return {name: average.clone() for name, average in self._average.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Score.load_state_dict`."""
        for name, average in self._average.items():
            average.copy_(state[name])


def norm_shares(A: Tensor, B: Tensor, c: Tensor) -> Tensor:
    """Return q_i = |c_i b_i a_i^T|_F / (|B diag(c) A|_F + eps), (r,), in float32 at least.

    Args:
        A: (r, in).
        B: (out, r).
        c: (r,).
    """
    dtype = compute_dtype(c)
    rows, columns, c = A.to(dtype), B.to(dtype), c.to(dtype)
    gram = (rows @ rows.T) * (columns.T @ columns)  # its diagonal is |a_i|^2 |b_i|^2
    whole = (c @ gram @ c).clamp_min(0).sqrt()
    return c.abs() * gram.diagonal().sqrt() / (whole + EPS)


class SensitivityScore(Score):
    """Sensitivity of the loss times its uncertainty; see the module.

    Args:
        layers: Components by layer name.
        beta1: Weight of the past in the average of the sensitivity.
        beta2: The same for its uncertainty.
    """

    counts_last = False

    def __init__(self, layers: Mapping[str, Components], beta1: float, beta2: float) -> None:
        super().__init__(layers)
        self._betas = beta1, beta2
        self._parameters = [p for part in layers.values() for p in part]
        self._sensitivity = [self._zeros(p) for p in self._parameters]
        self._uncertainty = [self._zeros(p) for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """See `Score.update`; a parameter without a gradient has sensitivity 0."""
        beta1, beta2 = self._betas
        present = [self._present(p) for p in self._parameters]
        torch._foreach_lerp_(self._sensitivity, present, 1 - beta1)
        deviation = torch._foreach_sub(present, self._sensitivity)
        torch._foreach_abs_(deviation)
        torch._foreach_lerp_(self._uncertainty, deviation, 1 - beta2)

    def values(self) -> dict[str, Tensor]:
        """See `Score.values`."""
        pairs = zip(self._sensitivity, self._uncertainty, strict=True)
        products = iter([sensitivity * uncertainty for sensitivity, uncertainty in pairs])
        return {
            name: next(products).mean(dim=1) + next(products).mean(dim=0) + next(products)
            for name in self.layers
        }

    def state_dict(self) -> dict[str, Any]:
        """See `Score.state_dict`."""
        kept = {"sensitivity": self._sensitivity, "uncertainty": self._uncertainty}
        return {key: [tensor.clone() for tensor in tensors] for key, tensors in kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Score.load_state_dict`."""
        torch._foreach_copy_(self._sensitivity, state["sensitivity"])
        torch._foreach_copy_(self._uncertainty, state["uncertainty"])

    @staticmethod
    def _zeros(parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter, dtype=compute_dtype(parameter))

    @staticmethod
    def _present(parameter: Tensor) -> Tensor:
        if parameter.grad is None:
            return SensitivityScore._zeros(parameter)
        return (parameter.to(compute_dtype(parameter)) * parameter.grad).abs()
