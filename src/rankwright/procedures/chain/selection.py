"""Which layers a round trains: pure functions of (seed, round) and the names of the layers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

import torch

from rankwright.errors import MethodError

Draw = Callable[..., torch.Generator]
"""Key -> seeded generator; `Run.generator`."""

Policy = Callable[[Draw, int, Sequence[str], int], Sequence[str]]
"""(draw, round, all groups, how many) -> the groups that are trained in that round."""

_BLOCK = re.compile(r"(.*?\.\d+)(?:\.|$)")


def group_of(name: str) -> str:
    """The layer of a network that a module belongs to.

    That is the name up to its first number (`...layers.7.self_attn.q_proj` -> `...layers.7`). A
    module outside any numbered block, a pooler say, is a layer of its own: it is drawn as often as
    every other.
    """
    match = _BLOCK.match(name)
    return match[1] if match else name


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Module names by layer, in the order of the model."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(group_of(name), []).append(name)
    return found


def number_of_groups(share: float | int | None, total: int) -> int:
    """How many of `total` layers a round trains.

    Args:
        share: A number of layers (int), a share of them in (0, 1] (float; rounded up), or None for
            all.
        total: Layers of the model.

    Raises:
        MethodError: There are fewer layers than asked for.
    """
    if share is None:
        return total
    if isinstance(share, float):
        return max(1, math.ceil(share * total - 1e-9))  # 1/3 of 33 layers is 11, not 12
    if share > total:
        raise MethodError(
            f"layers_per_round = {share}, but the adapted modules lie in {total} layers; choose an "
            f"integer of at most {total}, or a share such as 0.5"
        )
    return share


def uniform(draw: Draw, round_: int, groups: Sequence[str], count: int) -> list[str]:
    """`count` layers, without replacement, all subsets equally likely."""
    order = _shuffled(draw("selection", round_), groups)
    return order[:count]


def round_robin(draw: Draw, round_: int, groups: Sequence[str], count: int) -> list[str]:
    """Shuffled turns: in ceil(L / count) rounds every layer is trained at least once.

    The last round of a turn is filled up with the layers that the turn began with.
    """
    turn, place = divmod(round_, math.ceil(len(groups) / count))
    order = _shuffled(draw("selection", "turn", turn), groups)
    return [*order, *order][place * count : (place + 1) * count]


def blocks(draw: Draw, round_: int, groups: Sequence[str], count: int) -> list[str]:
    """`count` neighbouring layers: the model cut into blocks from the top, in shuffled turns.

    In ceil(L / count) rounds every layer is trained at least once. The lowest block is filled up
    with the layers above it. The lowest layer of a round lies higher than in other draws, and below
    it nothing is kept for the backward pass: L = 12 and count = 4 keep 8 of 12 layers on average.
    """
    starts = [max(0, end - count) for end in range(len(groups), 0, -count)]
    turn, place = divmod(round_, len(starts))
    order = torch.randperm(len(starts), generator=draw("selection", "turn", turn)).tolist()
    start = starts[order[place]]
    return list(groups[start : start + count])


def top_heavy(draw: Draw, round_: int, groups: Sequence[str], count: int) -> list[str]:
    """`count` layers, without replacement; the i-th from below (1..L) has weight i in each draw."""
    weights = torch.arange(1, len(groups) + 1, dtype=torch.float64)
    drawn = torch.multinomial(weights, count, generator=draw("selection", round_))
    return [groups[i] for i in drawn.tolist()]


POLICIES: dict[str, Policy] = {
    "uniform": uniform,
    "round_robin": round_robin,
    "blocks": blocks,
    "top_heavy": top_heavy,
}
EVEN = ("uniform", "round_robin")
"""Policies that choose every group as often as any other."""


def _shuffled(generator: torch.Generator, groups: Sequence[str]) -> list[str]:
    return [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
