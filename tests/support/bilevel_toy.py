"""The two-layer network of the BiDoRA golden files, its batches, and a loop that keeps notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rankwright.core.loop import Loop, constant_schedule

Batch = tuple[Tensor, Tensor]

LOWER = ("l0.A", "l0.B", "l1.A", "l1.B", "head.weight", "head.bias")
UPPER = ("l0.m", "l1.m")
FIELDS: dict[str, Any] = {
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["l0", "l1"],
    "modules_to_save": ["head"],
}
_PATHS = {
    "A": "lora_A.default.weight",
    "B": "lora_B.default.weight",
    "m": "lora_magnitude_vector.default.weight",
    "weight": "modules_to_save.default.weight",
    "bias": "modules_to_save.default.bias",
}


class Toy(nn.Module):
    """6-5-4 with tanh after each layer, then a linear head for three classes."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.l0 = nn.Linear(6, 5, bias=False)
        self.l1 = nn.Linear(5, 4, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(torch.tanh(self.l1(torch.tanh(self.l0(x))))))


def toy(dropout: float = 0.0, seed: int = 0) -> Toy:
    """A seeded float64 `Toy`."""
    torch.manual_seed(seed)
    return Toy(dropout).double()


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The loss; a third entry of the batch is a factor on it."""
    x, y, *factor = batch
    loss = nn.functional.cross_entropy(model(x.to(next(model.parameters()).dtype)), y)
    return loss * factor[0] if factor else loss


def batch(k: int, size: int = 8) -> Batch:
    """Batch number k of a stream of random rows."""
    generator = torch.Generator().manual_seed(1000 + k)
    x = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=generator)


def held_out(k: int) -> Batch:
    """Batch number k of another stream."""
    return batch(5000 + k)


def parameter(model: nn.Module, name: str) -> nn.Parameter:
    """The parameter that the golden files call `l0.A`, `l0.m`, `head.bias`, ..."""
    module, _, kind = name.partition(".")
    return model.get_parameter(f"base_model.model.{module}.{_PATHS[kind]}")


def named(model: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Copies of parameters by their golden names."""
    return ((name, parameter(model, name).detach().clone()) for name in names)


def spread(model: nn.Module, seed: int = 3) -> None:
    """Move every trained parameter off its start, where B = 0 hides half of the terms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in (*LOWER, *UPPER):
            p = parameter(model, name)
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


class Notes(Loop):
    """A loop that keeps the gradients handed to the optimizer in every upper step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.upper_gradients: list[dict[str, Tensor]] = []
        options = {
            "loss": cross_entropy,
            "held_out": held_out,
            "schedule": constant_schedule,
            **options,
        }
        super().__init__(*args, **options)

    def step_optimizer(self) -> None:
        before = dict(named(self.model, LOWER))
        self.upper_gradients.append(
            {name: parameter(self.model, name).grad.clone() for name in UPPER}
        )
        super().step_optimizer()
        assert all(torch.equal(before[n], v) for n, v in named(self.model, LOWER))
