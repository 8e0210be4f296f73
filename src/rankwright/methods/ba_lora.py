"""BA-LoRA: PiSSA trained with three regularisers of the outputs, against what pretraining left.

Chang, Chang, Wu, "BA-LoRA: Bias-Alleviating Low-Rank Adaptation to Mitigate Catastrophic
Inheritance in Large Language Models", ICLR 2026, arXiv 2408.04556.

    L = L_task + l1 CR + l2 DR + l3 SVDR

    CR    T^2 mean KL(softmax(z_P / T) || softmax(z_F / T)),   z_P of the pretrained model
    DR    tokens: -mean entropy over the K largest logits;   classes: sum_(i != j) C_ij^2 / D
    SVDR  -sum_(i <= k) sigma_i(Z) / |Z|_F on tokens, / sum_j sigma_j on classes

on the logits (rows, columns) of every micro-batch; the start and the layer are PiSSA's. z_P comes
from the same model with the adapter off: the base weights are as they were loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.export import Export
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LARGE_STEPS, LogRange, SearchSpace
from rankwright.core.slots import Slots
from rankwright.inits import Pissa
from rankwright.penalties import Outputs
from rankwright.penalties.outputs import ConsistencySchedule, Warmup
from rankwright.penalties.spectral import Norm


@register_method
@dataclass(frozen=True, kw_only=True)
class BALoRA(Method):
    """PiSSA with a consistency, a diversity and a spectral term in the loss.

    "Published" is the code at llm172/BA-LoRA@847505a, "paper" a note on its ICLR version; the
    paper itself could not be read.

    Attributes:
        lora_alpha: Numerator of s; 8, hence s = 1 at the default rank (published: lora_alpha = r).
        niter: 16 (published).
    """

    name: ClassVar[str] = "ba_lora"
    summary: ClassVar[str] = (
        "PiSSA with losses that keep outputs consistent, diverse and of low rank"
    )
    reference: ClassVar[str] = "Chang, Chang, Wu, ICLR 2026, arXiv 2408.04556"
    cost: ClassVar[str] = (
        "1 1/3 passes per step, with the products of rank 2 r; trains r (in + out) parameters per "
        "layer, stores twice as many"
    )
    space: ClassVar[SearchSpace] = {**LARGE_STEPS, "consistency": LogRange(0.01, 1.0)}

    lora_alpha: float = 8.0
    niter: int | None = from_part(Pissa, default=16)
    svd_seed: int = from_part(Pissa, "seed")
    consistency: float | None = from_part(Outputs)
    diversity: float | None = from_part(Outputs)
    spectral: float | None = from_part(Outputs)
    temperature: float = from_part(Outputs)
    top_k: int = from_part(Outputs)
    svd_k: int | None = from_part(Outputs)
    norm: Norm | None = from_part(Outputs)
    consistency_schedule: ConsistencySchedule = from_part(Outputs)
    warmup: float = from_part(Outputs)
    warmup_shape: Warmup = from_part(Outputs)
    causal_shift: bool = from_part(Outputs)
    centred: bool = from_part(Outputs)

    def slots(self) -> Slots:
        """PiSSA's start, and the terms of the loss."""
        return Slots(
            init=Pissa.from_fields(self),
            penalty=Outputs.from_fields(self),
            export=Export("LoRA adapter of rank 2 r"),
        )
