"""The optimizer steps of a run in which a procedure prunes, for it and for penalties beside it."""

from __future__ import annotations

from dataclasses import dataclass

from rankwright.errors import MethodError

EVENTS = 20
"""Prunings of a run whose settings do not say how many steps lie between them."""


@dataclass(frozen=True)
class Window:
    """The steps of a run in which components are pruned.

    Attributes:
        start: Optimizer steps before the pruning, which is its step k = 0.
        length: K, so that the last pruning is at k = K.
        every: Steps between two prunings.
    """

    start: float
    length: int
    every: int

    def position(self, step: int) -> int | None:
        """Return k of an optimizer step, truncated toward zero; None before the pruning.

        Args:
            step: 1-based number of the optimizer step.
        """
        since = step - self.start
        return int(since) if since > -1 else None  # -0.5 is k = 0, as in DoRA-dynamic's code

    def is_over(self, step: int) -> bool:
        """Return whether an optimizer step, counted from 1, comes after the last pruning."""
        k = self.position(step)
        return k is not None and k > self.length

    def is_event(self, k: int) -> bool:
        """Return whether components are pruned at step k of the pruning."""
        return k == self.length or (k < self.length and k % self.every == 0)


def pruning_window(
    total_steps: int, warm: float, cool: float, every: int | None, *, reference_rounding: bool
) -> Window:
    """Return the steps in which a run of `total_steps` prunes.

    Args:
        total_steps: Optimizer steps of the run, T.
        warm: Share of the steps before the pruning.
        cool: Share of the steps after it.
        every: Steps between two prunings; None for a twentieth of the pruning.
        reference_rounding: Whether K = int(T (1 - warm - cool)) and k = int(t - T warm) in floating
            point, as in DoRA-dynamic's code, or both ends are rounded to the nearest step. The
            code's K is one too small for some T: 489 for T = 1400 with 0.15 and 0.5.

    Raises:
        MethodError: No step is left.
    """
    if reference_rounding:
        start: float = total_steps * warm
        length = int(total_steps * (1 - warm - cool))
    else:
        start = round(warm * total_steps)
        length = round((1 - cool) * total_steps) - int(start)
    if length < 1:
        raise MethodError(
            f"{total_steps} optimizer steps leave none between the first {warm:g} and the last "
            f"{cool:g} of them, in which ranks are pruned: train for more steps, or lower warm or "
            "cool"
        )
    return Window(start, length, every or max(1, length // EVENTS))
