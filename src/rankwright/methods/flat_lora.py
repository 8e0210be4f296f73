"""Flat-LoRA: LoRA trained at randomly perturbed weights, so that it ends in a flat region.

Li et al., "Flat-LoRA: Low-Rank Adaptation over a Flat Loss Landscape", ICML 2025, arXiv 2409.14396.

    min over A, B of  E_eps L(W' + eps),    W' = W + s B A,    W, eps (out, in)

    eps_ij = f rho |W'_i| / sqrt(in) z_ij,    z_ij ~ N(0, 1),    f = (1 - cos(pi k / K)) / 2

at optimizer step k of K. One sample of eps a step; |W'_i| is the norm of row i at the step's
factors, constant for the gradients dL/dA = s B^T G, dL/dB = s G A^T, G = dL/dW at W' + eps. To
second order this is L(W') + 1/2 sum_ij std_i^2 H_ij,ij, with the Hessian H in the full weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, LogRange, SearchSpace
from rankwright.core.slots import Slots
from rankwright.procedures.perturbation import Perturbation


@register_method
@dataclass(frozen=True, kw_only=True)
class FlatLoRA(Method):
    """LoRA under weight noise."""

    name: ClassVar[str] = "flat_lora"
    summary: ClassVar[str] = "LoRA trained under noise on the full weights, for a flat minimum"
    reference: ClassVar[str] = "Li et al., ICML 2025, arXiv 2409.14396"
    cost: ClassVar[str] = (
        "1 pass per step and two draws of each weight's size; r (in + out) parameters per layer"
    )

    space: ClassVar[SearchSpace] = {**LOW_RANK, "rho": LogRange(0.01, 0.3)}

    rho: float = from_part(Perturbation)
    per_micro_batch: bool = from_part(Perturbation)
    same_on_all_processes: bool = from_part(Perturbation)

    def slots(self) -> Slots:
        """The noise around the steps; the rest is LoRA's."""
        return Slots(procedure=Perturbation.from_fields(self))
