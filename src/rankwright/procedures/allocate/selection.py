"""The components with the lowest scores of all layers, exactly as many as asked for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def keep_highest(
    scores: Mapping[str, Tensor], pruned: int, least_rank: int = 0
) -> dict[str, Tensor]:
    """Choose which components to keep so that exactly `pruned` are not.

    The lowest scores of all layers together are pruned. Among equal ones the first goes, in the
    order of the layers' names and of the components, so that the choice depends neither on the
    order in which a model registers its modules nor on the process.

    Args:
        scores: (r,) by layer name.
        pruned: Number of components to prune; fewer where `least_rank` leaves no more.
        least_rank: Components that every layer keeps, its highest.

    Returns:
        Whether each component is kept, booleans (r,) by layer name, in the order of `scores`.
    """
    names = sorted(scores)
    lengths = [len(scores[name]) for name in names]
    flat = torch.cat([scores[name].detach() for name in names])
    if least_rank:
        flat = flat.clone()
        for part in torch.split(flat, lengths):
            part[part.argsort(stable=True, descending=True)[:least_rank]] = torch.inf
    order = flat.argsort(stable=True)[:pruned]
    kept = torch.ones_like(flat, dtype=torch.bool)
    kept[order] = False
    kept |= flat == torch.inf
    chosen = dict(zip(names, torch.split(kept, lengths), strict=True))
    return {name: chosen[name] for name in scores}
