"""Projections of one block that see the same input: query, key and value; gate and up.

When the first of them is called, all are computed as one function (`lowrank_linears`). The outputs
of the others wait until they are asked for with that very tensor, and no longer than the call of
their block lasts: nothing else that they depend on changes within it.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Iterator, Sequence
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

SECOND_INPUT = {
    "encoder_hidden_states", "key_value_states", "context", "memory", "key", "value", "keys",
    "values", "key_tensor", "value_tensor",
}  # fmt: skip
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
        self._within = False  # a call of the block
        self._waiting: _Waiting | None = None
        self._handles = [
            parent.register_forward_pre_hook(self._begin),
            parent.register_forward_hook(self._end, always_call=True),
        ]

    def part(self) -> None:
        """Let each compute alone from now on."""
        self.apart = True
        for handle in self._handles:
            handle.remove()

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
        if self.apart or not self._within:
            return []
        parts = (self.parent._modules.get(name) for name in self.names)
        there: list[Any] = [part for part in parts if _same_input(part, layer)]
        if there[:1] != [layer]:
            return []
        return [m for m in there[1:] if not (m._forward_pre_hooks or "forward" in m.__dict__)]

    def keep(self, x: Tensor, outputs: Iterable[tuple[nn.Module, Tensor]]) -> None:
        """Let outputs wait.

        Args:
            x: The input.
            outputs: Layer and output.
        """
        by_layer = {id(layer): output for layer, output in outputs}
        self._waiting = _Waiting(weakref.ref(x), _version(x), by_layer)

    def _begin(self, _module: nn.Module, _args: Any) -> None:
        self._within = True

    def _end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._within, self._waiting = False, None

    def __getstate__(self) -> dict[str, Any]:
        """For a copy: it waits for nothing."""
        return {**self.__dict__, "_within": False, "_waiting": None}


def _same_input(part: Any, layer: Any) -> bool:
    """Whether a projection is of the layer's kind and takes an input as wide."""
    return type(part) is type(layer) and part.in_features == layer.in_features


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def together(layers: Sequence[Any], parent: nn.Module, names: tuple[str, ...]) -> None:
    """Let projections compute as one function from now on.

    Args:
        layers: Those of the projections that are adapted; each notes it as `siblings`.
        parent: Their block.
        names: Of all of its projections of that input, in the order in which they are called.
    """
    for siblings in _watching(parent):
        if siblings.names == names:  # of an adapter that is gone
            siblings.part()
    siblings = Siblings(parent, names)
    for layer in layers:
        layer.siblings = siblings


def apart(module: nn.Module) -> None:
    """Let every projection of a block compute alone from now on.

    Args:
        module: The block.
    """
    for siblings in _watching(module):
        siblings.part()


def parted(model: nn.Module) -> list[str]:
    """Names of blocks whose projections turned out to see different inputs.

    It takes a forward that computed them together, and drew a dropout mask more, to notice; a run
    that goes on must not repeat that.
    """
    return [
        name
        for name, module in model.named_modules()
        if any(siblings.apart for siblings in _watching(module))
    ]


def _watching(parent: nn.Module) -> list[Siblings]:
    owners = (getattr(hook, "__self__", None) for hook in parent._forward_pre_hooks.values())
    return [owner for owner in owners if isinstance(owner, Siblings)]


def shared_in(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Every block that has several projections of one input, and all names for those.

    Args:
        model: What the blocks are looked for in, by the names of their parts.
    """
    for parent in model.modules():
        for names in SHARED:
            there = [name for name in names if parent._modules.get(name) is not None]
            if len(there) > 1 and not _sees_two_inputs(parent):
                yield parent, names


def _sees_two_inputs(parent: nn.Module) -> bool:
    return not SECOND_INPUT.isdisjoint(inspect.signature(type(parent).forward).parameters)
