"""LoRA+: B learns at a higher rate than A, under whatever optimizer the engine has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.run import Run
from rankwright.core.slots import OptimizerPart

Group = dict[str, Any]


@register_part("lora_plus")
@dataclass(frozen=True)
class LoraPlus(OptimizerPart):
    """A learning rate for B that is a multiple of A's.

    All but the factors B keep the rate of their group: a new head its own, and so do vectors,
    magnitudes, and both factors of an embedding, whose A has no sum over inputs to make up for.

    Attributes:
        lr_ratio: Learning rate of B over that of A; 16 (as the authors suggest), more where the
            task is far from the pretraining, 1 for LoRA.
    """

    sharded: ClassVar[bool] = True
    experts: ClassVar[bool] = True

    lr_ratio: float = 16.0

    def __post_init__(self) -> None:
        """Check the field.

        Raises:
            MethodError: `lr_ratio` is not above 0.
        """
        check_field(self, "lr_ratio", self.lr_ratio > 0, "a number above 0; 1 is LoRA")

    def build(self, run: Run, groups: list[Group]) -> torch.optim.Optimizer:
        """See `OptimizerPart.build`."""
        factors_B = {id(p) for name, p in run.trainable().items() if _is_factor_b(name)}
        return run.default_optimizer(list(self._divided(groups, factors_B)))

    def _divided(self, groups: Iterable[Group], factors_B: set[int]) -> Iterator[Group]:
        """Every group without its factors B, then these at their rate."""
        for group in groups:
            for of_B, rate in ((False, 1.0), (True, self.lr_ratio)):
                members = [p for p in group["params"] if (id(p) in factors_B) == of_B]
                if members:
                    yield {**group, "params": members, "lr": rate * group["lr"]}


def _is_factor_b(name: str) -> bool:
    return ".lora_B." in name and not name.endswith(".bias")
