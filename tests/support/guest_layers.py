"""Layers of a guest's own, none of which says a word about checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rankwright.core.method import Method
from rankwright.core.slots import Layer, Slots
from rankwright.layers.factor import Factor
from rankwright.peft_layers.layers import adapted_layers


class Softmax(Factor):
    """diag(r softmax(theta)) A: the product does not say what it is made of."""

    def __init__(self, linear: nn.Linear, theta: nn.Parameter) -> None:
        super().__init__(linear)
        self.theta = theta

    @property
    def weight(self) -> Tensor:
        mass = len(self.live) * torch.softmax(self.theta, 0)
        return (mass[:, None] * self.live).to(self.live.dtype)


class Gate(nn.Module):
    """A module inside a factor, which all layers share."""

    offset: Tensor

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(0, 1, ranks))
        self.register_buffer("offset", torch.randn(ranks))


class Gated(Factor):
    """diag(sigmoid(logits + offset)) A."""

    def __init__(self, linear: nn.Linear, gate: Gate) -> None:
        super().__init__(linear)
        self.gate = gate

    @property
    def weight(self) -> Tensor:
        open_ = torch.sigmoid(self.gate.logits + self.gate.offset)
        return (open_[:, None] * self.live).to(self.live.dtype)


class Routed(nn.Module):
    """Ranks weighed token by token, and a count that no state dict has; no `Factor`."""

    seen: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.live = nn.Parameter(linear.weight.detach().clone())
        self.router = nn.Linear(linear.in_features, len(self.live), bias=False).to(self.live)
        nn.init.normal_(self.router.weight)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def weight(self) -> Tensor:
        return self.live

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        routed = (x @ self.live.T) * torch.softmax(self.router(x), -1)
        return routed * (1 + 1 / (1 + self.seen))


@dataclass(frozen=True)
class GuestLayer(Layer):
    """One of them.

    Attributes:
        kind: "softmax": a vector a layer; "shared": one vector for all layers; "scalar": a
            parameter of the layer itself as well; "routed".
    """

    kind: str = "softmax"

    def install(self, model: Any, adapter_name: str) -> None:
        shared: Any = None
        for layer in adapted_layers(model).values():
            A = layer.lora_A[adapter_name]
            if self.kind == "routed":
                layer.lora_A[adapter_name] = Routed(A)
                continue
            if self.kind == "nested":
                shared = shared or Gate(A.out_features).to(A.weight.device)
                layer.lora_A[adapter_name] = Gated(A, shared)
                continue
            if shared is None or self.kind != "shared":
                shared = nn.Parameter(torch.linspace(0, 1, A.out_features).to(A.weight.device))
            layer.lora_A[adapter_name] = Softmax(A, shared)
            if self.kind == "scalar":
                layer.shift = nn.Parameter(layer.get_base_layer().weight.new_ones(1))
                layer.register_forward_hook(lambda m, _, y: y + m.shift - m.shift.detach())


@dataclass(frozen=True, kw_only=True)
class Guest(Method):
    """LoRA with one of them."""

    name: ClassVar[str] = "guest"
    summary: ClassVar[str] = "a layer of a guest's own"
    reference: ClassVar[str] = "none"
    cost: ClassVar[str] = "1 pass per step"

    kind: str = "softmax"

    def slots(self) -> Slots:
        return Slots(layer=GuestLayer(self.kind))


KINDS = ("softmax", "shared", "scalar", "routed", "nested")
