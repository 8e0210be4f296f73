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

from rankwright.core.method import Method, Slots
from rankwright.core.registry import register
from rankwright.core.search import LOW_RANK, LogRange, SearchSpace
from rankwright.procedures.perturbation import Perturbation


@register
@dataclass(frozen=True, kw_only=True)
class FlatLoRA(Method):
    """LoRA under weight noise.

    "Published" is the code at nblt/Flat-LoRA@16d48ae. Steps are optimizer steps.

    Attributes:
        rho: Strength of the noise at the end of training, relative to each weight row; 0.05
            (published example; its default is 0, which is LoRA).
        per_micro_batch: A sample of noise for each micro-batch (ours), or one for the whole
            optimizer step (published).
        same_on_all_processes: The same sample on all processes (ours), or one on each (published).
    """

    name: ClassVar[str] = "flat_lora"
    summary: ClassVar[str] = "LoRA trained under noise on the full weights, for a flat minimum"
    reference: ClassVar[str] = "Li et al., ICML 2025, arXiv 2409.14396"
    cost: ClassVar[str] = (
        "1 pass a step and two draws of each weight's size; r (in + out) parameters a layer"
    )

    space: ClassVar[SearchSpace] = {**LOW_RANK, "rho": LogRange(0.01, 0.3)}

    rho: float = 0.05
    per_micro_batch: bool = False
    same_on_all_processes: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slots()  # the procedure checks its fields

    def slots(self) -> Slots:
        """The noise around the steps; the rest is LoRA's."""
        return Slots(
            procedure=Perturbation(
                rho=self.rho,
                per_micro_batch=self.per_micro_batch,
                same_on_all_processes=self.same_on_all_processes,
            )
        )
