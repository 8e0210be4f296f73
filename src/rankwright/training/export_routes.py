"""Which experts the tokens of the probe go to.

A router takes the experts of the highest scores. Where two scores nearly tie, rounding decides, and
the logits jump: two models with the same weights may differ by a tenth where one sums in another
order. So a written model is compared on the routes of the model in hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Routes = list[list[Tensor]]
"""For every module of experts, in the order of the model, the indices of each of its calls."""


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[Routes]:
    """Note the indices of the experts that are called.

    Args:
        model: Any module.
    """
    routes: Routes = [[] for _ in _experts(model)]

    def note(place: int, indices: Tensor) -> Tensor:
        routes[place].append(indices.detach())
        return indices

    with _at_calls(model, note):
        yield routes


@contextlib.contextmanager
def followed(model: nn.Module, routes: Routes) -> Iterator[None]:
    """Let the tokens go to the experts that were recorded, with the weights that they have now.

    Args:
        model: A module with the experts of the one that was recorded; called with the same inputs.
        routes: What was recorded.
    """
    left = [iter(calls) for calls in routes]

    def replace(place: int, indices: Tensor) -> Tensor:
        before = next(left[place], None) if place < len(left) else None
        fits = before is not None and before.shape == indices.shape
        return before.to(indices.device) if fits and before is not None else indices

    with _at_calls(model, replace):
        yield


@contextlib.contextmanager
def _at_calls(model: nn.Module, change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Pass the indices of every call of experts through a function of their place and them."""
    handles = []
    for place, module in enumerate(_experts(model)):

        def before(_module: nn.Module, args: Any, kwargs: Any, place: int = place) -> Any:
            def changed(value: Any) -> Any:
                return change(place, value) if _is_index(value) else value

            return tuple(map(changed, args)), {k: changed(v) for k, v in kwargs.items()}

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _experts(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__.endswith("Experts")]


def _is_index(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.int32, torch.int64)
