"""BeamLoRA: ranks with a learned share of the update; weak ones become copies of strong ones.

Gu et al., "BeamLoRA: Beam-Constraint Low-Rank Adaptation", ACL 2025, arXiv 2502.13604.

    y = x W^T + b + s ((x A^T) * w) B^T,    w = r softmax(theta / tau),    s = lora_alpha / r

A (r, in), B (out, r), theta (r,), which starts at zero, hence w = 1: LoRA. Every T steps the ranks
outside the top-p mass of all w are overwritten by the strongest ranks of their layer, in the state
of half a period before (:mod:`rankwright.procedures.beam`); p grows to 1. diag(w) A is saved as A,
so that the adapter is a plain LoRA of rank r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.fields import check_field
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.search_space import LOW_RANK, OneOf, SearchSpace
from rankwright.core.slots import Slots
from rankwright.layers.gated import GatedLoRA
from rankwright.procedures.beam import Beam, Gates, Moments, Pairing


@register_method
@dataclass(frozen=True, kw_only=True)
class BeamLoRA(Method):
    """LoRA whose weak ranks are replaced by copies of the strong ones.

    "Published" is the code at gccnlp/BeamLoRA@2610c6a; of the paper abstract and introduction were
    read.

    Attributes:
        temperature: tau; 0.05 (published; 0.03 for learning rates below 1e-4).
    """

    name: ClassVar[str] = "beamlora"
    summary: ClassVar[str] = "LoRA whose weak ranks become copies of the strong ones"
    reference: ClassVar[str] = "Gu et al., ACL 2025, arXiv 2502.13604"
    cost: ClassVar[str] = (
        "1 pass per step; trains r (in + out + 1) parameters per module, and for half of the steps "
        "keeps a copy of the factors and their moments in CPU memory"
    )

    space: ClassVar[SearchSpace] = {
        **LOW_RANK,
        "temperature": OneOf((0.03, 0.05, 0.1)),
        "top_p": OneOf((0.8, 0.95)),
    }

    temperature: float = from_part(GatedLoRA, default=0.05)
    every: int | None = from_part(Beam)
    top_p: float = from_part(Beam)
    until: float = from_part(Beam)
    pairing: Pairing = from_part(Beam)
    moments: Moments = from_part(Beam)
    gates: Gates = from_part(Beam)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        super().__post_init__()
        check_field(self, "r", self.r >= 2, "at least 2: a rank is a copy of another one")

    def slots(self) -> Slots:
        """Gates that compete, and the replacement of the weakest ranks."""
        return Slots(
            layer=GatedLoRA.from_fields(
                self,
                without=["gate_per"],
                gate_init="zeros",
                gate_map="softmax",
                gate_total="rank",
            ),
            procedure=Beam.from_fields(self),
        )
