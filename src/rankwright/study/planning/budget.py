"""Budgets of a run, and the number of optimizer steps that fit into one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rankwright.core.method import Method
from rankwright.core.slots import Slots
from rankwright.errors import MethodError

ROUNDING = 1e-9
"""Relative tolerance: thirds of a pass add up to whole passes only approximately."""


@dataclass(frozen=True)
class Budget:
    """A limit on the passes through the model, or on the seconds of training.

    Attributes:
        amount: Number of units.
        unit: "passes", each a forward and backward pass over one global batch, or "seconds".
    """

    amount: float
    unit: Literal["passes", "seconds"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget such as "2000-passes" or "90-seconds".

        Raises:
            MethodError: The text is neither, or the amount is not above 0.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)[- ]?(passes|seconds)", text.strip())
        if match is None or float(match[1]) <= 0:
            raise MethodError(
                f"budget = {text!r}: expected passes or seconds, such as 2000-passes or 90-seconds"
            )
        return cls(float(match[1]), "passes" if match[2] == "passes" else "seconds")

    def __str__(self) -> str:
        return f"{self.amount:.15g}-{self.unit}"

    def steps(self, method: Method, seconds_per_pass: float | None = None) -> int:
        """Return the largest number of optimizer steps of the method within the budget.

        Args:
            method: The method; its procedure says how many passes a number of steps takes.
            seconds_per_pass: Measured wall time of a pass, for a budget in seconds.

        Raises:
            MethodError: The budget is too small for a single step of every phase.
        """
        if self.unit == "passes":
            passes = self.amount
        elif seconds_per_pass is None:
            raise MethodError(f"a budget of {self} needs the measured time of a pass")
        else:
            passes = self.amount / seconds_per_pass
        return max_steps(method, passes)


def max_steps(method: Method, passes: float) -> int:
    """Return the largest number of optimizer steps that take at most `passes` passes.

    Raises:
        MethodError: There is no such number.
    """
    slots = method.made_of()
    for steps in range(int(passes), 0, -1):  # a step takes at least one pass
        if _fits(slots, steps, passes):
            return steps
    raise MethodError(
        f"{passes:g} passes are not enough for {method.name}: a run needs at least one step in "
        "every phase; give a larger budget, or change its fields"
    )


def _fits(slots: Slots, steps: int, passes: float) -> bool:
    try:
        return slots.passes(steps) <= passes * (1 + ROUNDING)
    except MethodError:  # fewer steps than phases
        return False
