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

from rankwright.core.method import Method, Slots
from rankwright.core.part import Export
from rankwright.core.registry import register
from rankwright.core.search import LARGE_STEPS, LogRange, SearchSpace
from rankwright.inits import Pissa
from rankwright.penalties import Outputs
from rankwright.penalties.outputs import ConsistencySchedule, Warmup
from rankwright.penalties.spectral import Norm


@register
@dataclass(frozen=True, kw_only=True)
class BALoRA(Method):
    """PiSSA with a consistency, a diversity and a spectral term in the loss.

    "Published" is the code at llm172/BA-LoRA@847505a, "paper" what a note on its ICLR version says;
    the paper itself could not be read.

    Attributes:
        lora_alpha: Numerator of s; 8, hence s = 1 at the default rank (published: lora_alpha = r).
        niter: Power iterations of PiSSA's randomised SVD; 16 (published), None for the exact one.
        svd_seed: Seed of the randomised SVD.
        consistency: l1; None for 0.025 on tokens, 0.15 on classes (paper). Above 0 every batch
            takes a forward pass more.
        diversity: l2; None for 0.005 on tokens, 0.03 on classes (paper).
        spectral: l3; None for 0.005 on tokens, 0.03 on classes (paper).
        temperature: T; 2 (published).
        top_k: K; 20 (published), 0 for the whole vocabulary.
        svd_k: k; None for 10 on tokens, 5 on classes (paper).
        norm: Denominator of SVDR; None for "frobenius" on tokens, "nuclear" on classes (paper).
        consistency_schedule: "cosine" (published: l1 falls to a tenth) or "constant".
        warmup: Share of the steps in which l2 and l3 rise; 0 (published: 0.2, but without effect).
        warmup_shape: "linear" or "quadratic".
        causal_shift: The logits that predict a label that counts (ours), or those at its position
            (False, published).
        centred: Subtract each row's mean before SVDR, which else falls when all logits grow (ours).
    """

    name: ClassVar[str] = "ba_lora"
    summary: ClassVar[str] = (
        "PiSSA with losses that keep outputs consistent, diverse and of low rank"
    )
    reference: ClassVar[str] = "Chang, Chang, Wu, ICLR 2026, arXiv 2408.04556"
    cost: ClassVar[str] = (
        "1 1/3 passes a step, with the products of rank 2 r; trains r (in + out) parameters a "
        "layer, stores twice as many"
    )
    space: ClassVar[SearchSpace] = {**LARGE_STEPS, "consistency": LogRange(0.01, 1.0)}

    lora_alpha: float = 8.0
    niter: int | None = 16
    svd_seed: int = 0
    consistency: float | None = None
    diversity: float | None = None
    spectral: float | None = None
    temperature: float = 2.0
    top_k: int = 20
    svd_k: int | None = None
    norm: Norm | None = None
    consistency_schedule: ConsistencySchedule = "cosine"
    warmup: float = 0.0
    warmup_shape: Warmup = "linear"
    causal_shift: bool = True
    centred: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slots()  # the parts check their fields

    def slots(self) -> Slots:
        """PiSSA's start, and the terms of the loss."""
        return Slots(
            init=Pissa(self.niter, self.svd_seed),
            penalty=Outputs.from_fields(self),
            export=Export("LoRA adapter of rank 2 r"),
        )
