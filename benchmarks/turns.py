"""Calls that take turns in one process, and what that says about their ratios."""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.meters import Meter


def take_turns(
    calls: Sequence[tuple[Callable[[], Any], Callable[[], Any]]], meter: Meter, rounds: int
) -> list[list[dict[str, float]]]:
    """Figures by round and call; every round begins with another call.

    Args:
        calls: Pairs of what is measured and what is run after it.
        meter: What measures.
        rounds: Rounds that count; one more comes before them.
    """
    gc.collect()
    gc.disable()
    turns = []
    for turn in range(rounds + 1):
        row: list[dict[str, float]] = [{}] * len(calls)
        for place in range(len(calls)):
            place = (place + turn) % len(calls)
            call, after = calls[place]
            row[place] = meter(call)
            after()
        gc.collect()
        turns.append(row)
        print(".", end="", flush=True, file=sys.stderr)
    gc.enable()
    print(file=sys.stderr)
    return turns[1:]


def figures(turns: list[list[dict[str, float]]], place: int, floor: int = 0) -> dict[str, Any]:
    """By unit the median of a call and quartiles of its ratio to the floor's; then `turns`."""
    found: dict[str, Any] = {}
    for unit in turns[0][place]:
        values = [turn[place][unit] for turn in turns]
        ratios = [turn[place][unit] / turn[floor][unit] for turn in turns]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        found[unit] = {"median": statistics.median(values), "ratio": quartiles}
    return {**found, "turns": len(turns)}


def nothing() -> None:
    """For a call after which nothing has to be run."""
