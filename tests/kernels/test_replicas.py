"""Copies of a model as `nn.DataParallel` makes them, each in a thread of its own."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel.replicate import replicate

from models import tiny_llama, tokens, trained
from rankwright.core.method import Method
from rankwright.methods import BiDoRA, DoRA, LoRA, LoRAFA, PiSSA


def replicas(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two replicas; their parameters are copies that pass a gradient on, as on two devices."""

    def copies(tensors: list[Tensor], devices: list[int], detach: bool = False) -> list[Any]:
        return [
            [t.clone() if t.requires_grad and not detach else t.detach().clone() for t in tensors]
            for _ in devices
        ]

    place = sys.modules["torch.nn.parallel.replicate"]
    monkeypatch.setattr(place, "_broadcast_coalesced_reshape", copies)
    monkeypatch.setattr(place, "_get_device_index", lambda device, _optional: device)
    return replicate(model, [0, 1])


@pytest.mark.parametrize(
    "method", [LoRA(r=2), DoRA(r=2), BiDoRA(r=2), LoRAFA(r=2), PiSSA(r=2)], ids=lambda m: m.name
)
def test_replicas_give_the_gradients_of_the_model(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(tiny_llama, method).train()
    halves = tokens(4).split(2)
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses = [model(input_ids=half, labels=half).loss for half in halves]
    expected = torch.autograd.grad(torch.stack(losses).sum(), parameters, allow_unused=True)

    both = replicas(model, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda m, half: m(input_ids=half, labels=half).loss, both, halves))
    gradients = torch.autograd.grad(torch.stack(found).sum(), parameters, allow_unused=True)
    torch.testing.assert_close(found, losses, rtol=1e-12, atol=0)
    for one, other in zip(gradients, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-15)


def test_replicas_compute_with_what_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica reads no parameter of the original, whatever is fused around it."""
    model = trained(tiny_llama, LoRA(r=2)).train()
    ids = tokens(2)
    expected = model(input_ids=ids).logits
    first, _ = replicas(model, monkeypatch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    torch.testing.assert_close(first(input_ids=ids).logits, expected, rtol=1e-12, atol=1e-15)
