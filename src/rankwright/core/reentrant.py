"""Detection of reentrant activation checkpoints."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def has_reentrant_checkpoint(loss: Tensor) -> bool:
    """Whether the graph of a loss leads through `torch.utils.checkpoint` with use_reentrant.

    Parameters inside are not in the graph: a backward reaches them, `torch.autograd.grad` does not.
    """
    seen: set[Any] = set()
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return False
