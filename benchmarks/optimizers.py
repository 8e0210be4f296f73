"""Measure the step of every optimizer, on the factors of a 7B model.

    python -m benchmarks.optimizers              # a look, nothing written
    python -m benchmarks.optimizers --write      # puts the tables into docs/results/optimizers.md

No model: parameters and gradients of the shapes that count, and `step()`. All optimizers live in
one process, on tensors of their own, and take turns; ratios to AdamW are taken within a turn.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bench import RESULTS
from benchmarks.meters import Meter
from benchmarks.published_rite import PublishedRite
from benchmarks.report import BEGIN, END, machine, table
from benchmarks.turns import figures, take_turns
from rankwright.optimizers import LoraProAdamW, LoraRiteOptimizer, Pair
from rankwright.procedures.sparsify.proximal import soft_threshold

LR = 1e-5  # small: the same gradients are stepped along again and again


@dataclass(frozen=True)
class Shape:
    """Modules that are adapted.

    Attributes:
        title: What the reader sees.
        modules: (in, out) of each.
    """

    title: str
    modules: Sequence[tuple[int, int]]


WIDE, NARROW = (4096, 11008), (11008, 4096)
SHAPES = {
    "attention": Shape("56 modules of 4096 x 4096", [(4096, 4096)] * 56),
    "mlp": Shape("16 modules of 11008 x 4096 and 8 of 4096 x 11008", [WIDE] * 16 + [NARROW] * 8),
    "few": Shape("2 modules of 4096 x 4096", [(4096, 4096)] * 2),
}
R, S = 16, 2.0


def adapter(shape: Shape) -> dict[str, Pair]:
    """Pairs as they are in mid-training, with gradients."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = {}
    for number, (length, out) in enumerate(shape.modules):
        A, B = torch.randn(R, length) / math.sqrt(length), 1e-2 * torch.randn(out, R)
        pair = Pair(str(number), *(nn.Parameter(factor.to(device)) for factor in (A, B)), S)
        for factor in pair:
            factor.grad = 1e-4 * torch.randn_like(factor)
        pairs[pair.name] = pair
    return pairs


class Gated:
    """AdamW on factors and gates, and SoRA's threshold after it or not."""

    def __init__(self, pairs: dict[str, Pair], xi: float) -> None:
        device = next(iter(pairs.values())).A.device
        self.gates = [nn.Parameter(torch.ones(R, device=device)) for _ in pairs]
        for gate in self.gates:
            gate.grad = 1e-4 * torch.randn_like(gate)
        self.optimizer = torch.optim.AdamW([*factors(pairs), *self.gates], lr=LR, foreach=True)
        self.state, self.xi = self.optimizer.state, xi

    def step(self) -> None:
        """The optimizer's step, and the threshold."""
        self.optimizer.step()
        if self.xi:
            soft_threshold(self.gates, self.xi)


def factors(pairs: dict[str, Pair]) -> list[nn.Parameter]:
    """All factors."""
    return [factor for pair in pairs.values() for factor in pair]


Build = Callable[[dict[str, Pair]], Any]


def adamw(**options: Any) -> Build:
    """AdamW of torch."""
    return lambda pairs: torch.optim.AdamW(factors(pairs), lr=LR, **options)


def lora_pro(**options: Any) -> Build:
    """LoRA-Pro."""
    return lambda pairs: LoraProAdamW(factors(pairs), pairs, lr=LR, **options)


def lora_rite(**options: Any) -> Build:
    """LoRA-RITE."""
    return lambda pairs: LoraRiteOptimizer(factors(pairs), pairs, lr=LR, **options)


FLOOR = "AdamW, foreach"
OPTIMIZERS: dict[str, Build] = {
    FLOOR: adamw(foreach=True),
    "AdamW, fused": adamw(fused=True),
    "LoRA-RITE": lora_rite(),
    "LoRA-RITE, escape, balance and cap": lora_rite(escape=True, balance=True, cap=1.0),
    "LoRA-RITE, pair by pair with QR": lambda pairs: PublishedRite(pairs, LR),
    "LoRA-Pro, efficient": lora_pro(),
    "LoRA-Pro, efficient, symmetric X": lora_pro(x_mode="symmetric"),
    "SoRA, no threshold": lambda pairs: Gated(pairs, 0.0),
    "SoRA": lambda pairs: Gated(pairs, 1e-7),
}
FULL: dict[str, Build] = {
    FLOOR: adamw(foreach=True),
    "LoRA-Pro, full": lora_pro(mode="full"),
    "LoRA-Pro, full, bfloat16 moments": lora_pro(mode="full", moments="bfloat16"),
    "LoRA-Pro, full, 8-bit moments": lora_pro(mode="full", moments="8bit"),
}
"""Moments of the shape of the weight: a few modules only, or they would not fit."""


def state_bytes(optimizer: Any) -> int:
    """Bytes of all tensors that an optimizer keeps, each storage once."""
    kept = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    }
    return sum(kept.values())


def measure(
    shape: Shape, builds: dict[str, Build], rounds: int, meter: Callable[..., dict[str, float]]
) -> list[dict[str, Any]]:
    """A row an optimizer."""
    optimizers = [build(adapter(shape)) for build in builds.values()]
    turns = take_turns([(optimizer.step, lambda: None) for optimizer in optimizers], meter, rounds)
    return [
        {"name": name, "state_bytes": state_bytes(optimizer), **figures(turns, place)}
        for place, (name, optimizer) in enumerate(zip(builds, optimizers, strict=True))
    ]


def tables(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a table a shape."""
    parts = [f"Measured on: {'; '.join(f'{name} {value}' for name, value in machine().items())}."]
    for shape, rows in found.items():
        unit = next(unit for unit in ("cycles", "ms") if unit in rows[0])
        lines = []
        for row in rows:
            low, middle, high = row[unit]["ratio"]
            lines.append(
                [
                    row["name"],
                    f"**{middle:.2f}**",
                    f"{low:.2f}-{high:.2f}",
                    f"{row['ms']['median']:.1f}",
                    f"{row['state_bytes'] / 2**20:.1f}",
                    f"{row['state_bytes'] / rows[0]['state_bytes']:.2f}",
                ]
            )
        head = ["", f"{unit} / AdamW", "quartiles", "ms", "state (MiB)", "state / AdamW"]
        parts += [f"### {SHAPES[shape].title}, r = {R}", table(head, lines)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES], choices=SHAPES)
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names to measure")
    parser.add_argument("--rounds", type=int, default=25, help="turns")
    parser.add_argument("--write", action="store_true", help="write to docs/results")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {}
    for shape in given.shapes:
        builds = FULL if shape == "few" else OPTIMIZERS
        chosen = {n: b for n, b in builds.items() if not given.only or n in (FLOOR, *given.only)}
        found[shape] = measure(SHAPES[shape], chosen, given.rounds, Meter())
    text = tables(found)
    print(text)
    if given.write:
        page = RESULTS / "optimizers.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
