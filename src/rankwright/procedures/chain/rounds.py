"""How the steps of a run are divided into rounds, and the learning rate that each of them sees."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, count, pairwise, takewhile
from typing import Literal

from rankwright.core.schedule import Multiplier, Shape
from rankwright.errors import MethodError

LEAST_STEPS = 20  # of a round, where the number of rounds is left to us

LrPolicy = Literal["global", "restart", "rewarm"]


def equal_lengths(total_steps: int, rounds: int | None, default_rounds: int) -> list[int]:
    """Steps of every round, the longer ones first.

    Args:
        total_steps: Of the run.
        rounds: How many. None: `default_rounds`, or fewer with at least 20 steps each.
        default_rounds: See `rounds`.

    Raises:
        MethodError: There are more rounds than steps.
    """
    number = rounds or min(default_rounds, max(1, total_steps // LEAST_STEPS))
    if number > total_steps:
        raise MethodError(
            f"rounds = {number}, but the run has {total_steps} optimizer steps; train longer "
            "or choose fewer rounds"
        )
    short, longer = divmod(total_steps, number)
    return [short + (place < longer) for place in range(number)]


def pieces(total_steps: int, length: float) -> list[int]:
    """`total_steps` cut after every `length`, to the nearest step; the last may be shorter."""
    ends = takewhile(lambda end: end < total_steps, (int(length * t + 0.5) for t in count(1)))
    return [end - start for start, end in pairwise([0, *ends, total_steps])]


def round_schedule(
    policy: LrPolicy, shape: Shape, lengths: list[int], rewarm_steps: int = 0
) -> Multiplier:
    """The learning-rate factor of every step.

    Args:
        policy: "global": `shape` over the whole run; "restart": anew in every round; "rewarm":
            over the whole run, times a linear warm-up in every round but the first.
        shape: The user's schedule.
        lengths: Steps of every round.
        rewarm_steps: Length of the warm-up in optimizer steps.
    """
    whole = shape(sum(lengths))
    if policy == "global":
        return whole
    ends = list(accumulate(lengths))
    restarted = {length: shape(length) for length in set(lengths)}

    def multiplier(step: int) -> float:
        number = min(bisect_right(ends, step), len(ends) - 1)
        done = step - ends[number] + lengths[number]
        if policy == "restart":
            return restarted[lengths[number]](done)
        warm = min(1.0, (done + 1) / rewarm_steps) if number else 1.0
        return whole(step) * warm

    return multiplier
