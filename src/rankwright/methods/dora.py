"""DoRA: LoRA on the direction of each output row, plus a trained magnitude for each row.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv 2402.09353.

    V = W + s B A,    n = |V| row by row,    W' = diag(m / n) V,    y = x W'^T + b

W (out, in) and b are frozen; A (r, in) and B (out, r) start as LoRA's, m (out) at |W|, so W' = W. n
is a constant for the gradient (the paper's section 4.3), or not. With dy = dL/dy and g = m / n:

    dL/dm_i = sum dy_i (y_i - b_i) / m_i,    dL/dB = s diag(g) dy^T (x A^T)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankwright.core.export import DoraExport
from rankwright.core.method import Method
from rankwright.core.method_registry import register_method
from rankwright.core.part_fields import from_part
from rankwright.core.slots import Slots
from rankwright.layers import Dora
from rankwright.layers.dora import NormGrad


@register_method
@dataclass(frozen=True, kw_only=True)
class DoRA(Method):
    """Magnitude and direction of every weight row, trained apart."""

    name: ClassVar[str] = "dora"
    summary: ClassVar[str] = "trains the length of every weight row beside a low-rank direction"
    reference: ClassVar[str] = "Liu et al., ICML 2024, arXiv 2402.09353"
    cost: ClassVar[str] = "1 pass per step; r (in + out) + out parameters per layer"

    norm_grad: NormGrad = from_part(Dora)

    def slots(self) -> Slots:
        """The layer; the rest is LoRA's."""
        return Slots(layer=Dora.from_fields(self), export=DoraExport())
