"""Methods that start with more ranks than the adapter is to have (DoRA-dynamic, AdaLoRA)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rankwright.core.fields import check_field
from rankwright.core.method import Method


@dataclass(frozen=True, kw_only=True)
class PrunedRanks(Method):
    """LoRA of rank r' at the start, and of rank r on average in the end.

    Attributes:
        r: Rank of a layer in the end, on average over the layers.
        lora_alpha: Numerator of s = lora_alpha / r'; 24, hence s = 2 with r' = 12, as LoRA's
            default. The scaling stays the same when ranks are pruned.
        start_rank: Rank of every layer at the start, r'; None for 1.5 r, rounded up.
    """

    lora_alpha: float = 24.0
    start_rank: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range, or the start has fewer ranks than the end.
        """
        super().__post_init__()
        enough = self.injected_rank >= self.r
        check_field(self, "start_rank", enough, f"at least r = {self.r}, or None")

    @property
    def injected_rank(self) -> int:
        """See `Method.injected_rank`: r'."""
        return math.ceil(1.5 * self.r) if self.start_rank is None else self.start_rank

    @property
    def keep(self) -> float:
        """Share of the ranks that is left in the end; at most 1."""
        return min(1.0, self.r / max(1, self.injected_rank))
