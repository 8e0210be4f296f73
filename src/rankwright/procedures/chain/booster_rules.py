"""Rules by which the boosters of a chain start and are kept; a part of `Chain`'s fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from rankwright.core.run import Run
from rankwright.layers.stacked.layer import Side
from rankwright.procedures.chain.frozen import FrozenDraw

Mode = Literal["history", "fold", "recompress"]

Basis = Callable[[Run, int, str, LoraLayer], tuple[Tensor | None, Tensor | None] | None]
"""(run, round, module name, layer) -> first A (r, in) and B (out, r) of a booster, where None is
zero; None to use the default start."""


@dataclass(frozen=True)
class BoosterRules:
    """How boosters start and how long a stack may be; see the fields of `Chain`."""

    mode: Mode
    rank_cap: int
    ranks: Sequence[int] | None
    shrinkage: float
    frozen: Side | None
    frozen_draw: FrozenDraw
    round_basis: Basis | None
