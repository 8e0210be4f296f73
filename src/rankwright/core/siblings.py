"""Projections of one block that see the same input: query, key and value; gate and up.

When the first of them is called, all are computed as one function (`lowrank_linears`). The outputs
of the others wait until they are asked for with that very tensor.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

SHARED: list[tuple[str, ...]] = [
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("gate_proj", "up_proj"),
]
"""Names of projections of a block's one input, in the order in which they are called; add yours."""

SECOND_INPUT = {"encoder_hidden_states", "key_value_states", "context", "memory", "key", "value"}
"""Arguments of attention over another sequence, whose keys are not of this input."""


@dataclass(frozen=True)
class _Waiting:
    """Outputs that have not been asked for.

    Attributes:
        x: The input.
        version: Of the input.
        outputs: By `id` of the layer.
    """

    x: weakref.ref[Tensor]
    version: int
    outputs: dict[int, Tensor]


class Siblings:
    """The projections of one block.

    Attributes:
        parent: The block.
        names: Of the projections, in the order in which they are called.
        apart: Whether they turned out to see different inputs; each then computes alone.
    """

    def __init__(self, parent: nn.Module, names: tuple[str, ...]) -> None:
        self.parent = parent
        self.names = names
        self.apart = False
        self._waiting: _Waiting | None = None

    def take(self, layer: nn.Module, x: Tensor) -> Tensor | None:
        """The layer's output that was computed with another's; None if there is none for this x.

        Args:
            layer: One of the projections.
            x: What it is called with.
        """
        waiting = self._waiting
        output = None if waiting is None else waiting.outputs.pop(id(layer), None)
        if waiting is None or output is None:
            return None
        if waiting.x() is x and waiting.version == _version(x):
            return output
        self.apart = True
        self._waiting = None
        return None

    def others(self, layer: nn.Module) -> list[Any]:
        """Those to be computed with this one, if it is the first that is adapted; else none.

        One that somebody else has a hand in computes alone: it may not be ready before its call.

        Args:
            layer: One of the projections.
        """
        parts = (self.parent._modules.get(name) for name in self.names)
        there = [part for part in parts if type(part) is type(layer)]
        if self.apart or there[:1] != [layer]:
            return []
        return [m for m in there[1:] if not (m._forward_pre_hooks or "forward" in m.__dict__)]

    def keep(self, x: Tensor, outputs: Iterable[tuple[nn.Module, Tensor]]) -> None:
        """Let outputs wait, until the next input is kept at the latest.

        Args:
            x: The input.
            outputs: Layer and output.
        """
        by_layer = {id(layer): output for layer, output in outputs}
        self._waiting = _Waiting(weakref.ref(x), _version(x), by_layer)

    def __getstate__(self) -> dict[str, Any]:
        """For a copy: it waits for nothing."""
        return {**self.__dict__, "_waiting": None}


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def siblings_in(model: nn.Module) -> Iterator[tuple[Siblings, list[nn.Module]]]:
    """Every block's projections that see one input, and those modules.

    Args:
        model: What the blocks are looked for in, by the names of their parts.
    """
    for parent in model.modules():
        for names in SHARED:
            parts = [parent._modules.get(name) for name in names]
            there = [part for part in parts if part is not None]
            if len(there) > 1 and not _sees_two_inputs(parent):
                yield Siblings(parent, names), there


def _sees_two_inputs(parent: nn.Module) -> bool:
    return not SECOND_INPUT.isdisjoint(inspect.signature(type(parent).forward).parameters)
