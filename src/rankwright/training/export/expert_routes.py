"""Record and replay the experts that the probe's tokens are routed to.

A router takes the experts with the highest scores. If two scores nearly tie, rounding decides, and
the logits jump: models with the same weights may differ by a tenth if they sum in another order. So
a written model is compared on the routes of the model in hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Routes = list[Tensor]
"""Expert indices of every call of experts, in the order of the calls."""


@contextlib.contextmanager
def record_routes(model: nn.Module) -> Iterator[Routes]:
    """Record the expert indices of every call while the context lasts.

    Args:
        model: Any module.
    """
    routes: Routes = []

    def note(indices: Tensor) -> Tensor:
        routes.append(indices.detach())
        return indices

    with _change_indices(model, note):
        yield routes


@contextlib.contextmanager
def follow_routes(model: nn.Module, routes: Routes) -> Iterator[None]:
    """Route tokens to the recorded experts, weighted by the router's current scores.

    Args:
        model: A module with the same experts as the recorded one; called with the same inputs.
        routes: Result of `record_routes`.
    """
    left = iter(routes)

    def replace(indices: Tensor) -> Tensor:
        before = next(left, None)
        if before is None or before.shape != indices.shape:
            return indices
        return before.to(indices.device)

    with _change_indices(model, replace):
        yield


@contextlib.contextmanager
def _change_indices(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Pass the expert indices of every call through a function."""

    def changed(value: Any) -> Any:
        return change(value) if _is_index(value) else value

    def before(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tuple(map(changed, args)), {k: changed(v) for k, v in kwargs.items()}

    experts = (m for m in model.modules() if type(m).__name__.endswith("Experts"))
    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in experts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_index(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.int32, torch.int64)
