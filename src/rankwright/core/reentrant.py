"""Detection of reentrant activation checkpoints."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def has_reentrant_checkpoint(loss: Tensor) -> bool:
    """Return whether the graph of a loss contains a checkpoint with `use_reentrant`.

    The graph lacks the parameters inside it: a backward reaches them, `torch.autograd.grad` does
    not.
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
