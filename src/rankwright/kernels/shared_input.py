"""Projections of one block that see the same input: query, key and value; gate and up.

When the first of them is called, all are computed as one function (`lowrank_linears`). The outputs
of the others wait until their layers are called with that very tensor, and no longer than the call
of their block lasts: nothing else that they depend on changes during it.
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
"""Names of projections that share their block's input, in call order; append your model's own."""

SECOND_INPUT = {
    "encoder_hidden_states", "key_value_states", "context", "memory", "key", "value", "keys",
    "values", "key_tensor", "value_tensor",
}  # fmt: skip
"""Arguments of attention over another sequence, whose keys and values see a second input."""


@dataclass(frozen=True)
class _Waiting:
    """Outputs that are computed and not yet taken.

    Attributes:
        x: The input; weak, so as not to keep it alive.
        version: The version of the input; a write in place changes it.
        outputs: Output by `id` of the layer.
    """

    x: weakref.ref[Tensor]
    version: int
    outputs: dict[int, Tensor]


class InputGroup:
    """Projections of one block that see the same input.

    Attributes:
        parent: The block.
        names: Names of the projections, in the order in which they are called.
        ungrouped: Whether each computes alone: they turned out to see different inputs, or
            `ungroup` was called.
    """

    def __init__(self, parent: nn.Module, names: tuple[str, ...]) -> None:
        self.parent = parent
        self.names = names
        self.ungrouped = False
        self._in_call = False  # of the block
        self._waiting: _Waiting | None = None
        self._handles = [
            parent.register_forward_pre_hook(self._begin_call),
            # always: after an error, outputs must not wait for the next call
            parent.register_forward_hook(self._end_call, always_call=True),
        ]

    def ungroup(self) -> None:
        """Let each projection compute alone from now on, and remove the hooks on the block."""
        self.ungrouped = True
        for handle in self._handles:
            handle.remove()

    def take(self, layer: nn.Module, x: Tensor) -> Tensor | None:
        """Return the output that waits for a layer; None if there is none for this input.

        An output that waits for another input ungroups the projections.

        Args:
            layer: One of the projections.
            x: Its input.
        """
        waiting = self._waiting
        output = None if waiting is None else waiting.outputs.pop(id(layer), None)
        if waiting is None or output is None:
            return None
        if waiting.x() is x and waiting.version == _version(x):
            return output
        self.ungrouped = True  # the hooks stay: `ungrouped_blocks` finds the group by them
        self._waiting = None
        return None

    def others(self, layer: nn.Module) -> list[Any]:
        """Return the layers to compute with this one if it is the first adapted one; else none.

        A layer with a pre-hook or a forward of its own is left out: its input may not be ready
        before its call.

        Args:
            layer: One of the projections.
        """
        if self.ungrouped or not self._in_call:
            return []
        parts = (self.parent._modules.get(name) for name in self.names)
        alike: list[Any] = [part for part in parts if _same_input(part, layer)]
        if alike[:1] != [layer]:
            return []
        return [m for m in alike[1:] if not (m._forward_pre_hooks or "forward" in m.__dict__)]

    def keep(self, x: Tensor, outputs: Iterable[tuple[nn.Module, Tensor]]) -> None:
        """Let outputs wait until their layers are called.

        Args:
            x: The input of all of them.
            outputs: Pairs of layer and output.
        """
        by_layer = {id(layer): output for layer, output in outputs}
        self._waiting = _Waiting(weakref.ref(x), _version(x), by_layer)

    def _begin_call(self, _module: nn.Module, _args: Any) -> None:
        self._in_call = True

    def _end_call(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._in_call, self._waiting = False, None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy, in which no output waits."""
        return {**self.__dict__, "_in_call": False, "_waiting": None}


def _same_input(part: Any, layer: Any) -> bool:
    """Return whether a projection has the layer's class and input width."""
    return type(part) is type(layer) and part.in_features == layer.in_features


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def share_input(layers: Sequence[Any], parent: nn.Module, names: tuple[str, ...]) -> None:
    """Let projections compute as one function from now on.

    Args:
        layers: The adapted ones among the projections; the group becomes their `input_group`.
        parent: Their block.
        names: Names of all its projections of that input, in the order in which they are called.
    """
    for group in _groups_of(parent):
        if group.names == names:  # left behind by an adapter that was removed
            group.ungroup()
    group = InputGroup(parent, names)
    for layer in layers:
        layer.input_group = group


def ungroup(block: nn.Module) -> None:
    """Let every projection of a block compute alone from now on.

    Args:
        block: The block.
    """
    for group in _groups_of(block):
        group.ungroup()


def restore_ungrouped(block: nn.Module) -> None:
    """Let every projection of a block compute alone, as in the run whose checkpoint is resumed.

    The block stays in `ungrouped_blocks`, so that the next checkpoint names it too.

    Args:
        block: One of the blocks that `ungrouped_blocks` returned there.
    """
    for group in _groups_of(block):
        group.ungrouped = True


def ungrouped_blocks(model: nn.Module) -> list[str]:
    """Return the names of blocks whose projections turned out to see different inputs.

    Noticing it took a forward that computed them as one and drew one dropout mask too many; a
    resumed run must not repeat that.
    """
    return [
        name
        for name, module in model.named_modules()
        if any(group.ungrouped for group in _groups_of(module))
    ]


def _groups_of(parent: nn.Module) -> list[InputGroup]:
    owners = (getattr(hook, "__self__", None) for hook in parent._forward_pre_hooks.values())
    return [owner for owner in owners if isinstance(owner, InputGroup)]


def shared_in(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Yield every block with several projections of one input, and the entry of `SHARED` for them.

    Args:
        model: The model to search, by the names of the blocks' parts.
    """
    for parent in model.modules():
        for names in SHARED:
            found = [name for name in names if parent._modules.get(name) is not None]
            if len(found) > 1 and not _sees_two_inputs(parent):
                yield parent, names


def _sees_two_inputs(parent: nn.Module) -> bool:
    return not SECOND_INPUT.isdisjoint(inspect.signature(type(parent).forward).parameters)
