"""BiDoRA's Gram penalty, in full and drawn: what it costs, and how far a draw is from the whole.

    python docs/results/gram_draws.py          # time alone
    python docs/results/gram_draws.py --draws 100

all-MiniLM-L6-v2 with A as PEFT starts it and B normal of deviation 0.02. Time: the penalty and its
gradient, processor time, the forms taking turns. Errors are relative to the norm of the whole.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rankwright.core.random_state import seeded_generator
from rankwright.job.model_names import resolve_model
from rankwright.methods import BiDoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.penalties import Gram

WHOLE = Gram(1.0, rows=None, modules=None)
DRAWN = [
    Gram(1.0, rows=rows, modules=modules)
    for rows, modules in ((128, None), (64, None), (32, None), (128, 8), (128, 4), (64, 4))
]
ROUNDS = 11


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=0, help="of each form")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    base = AutoModelForSequenceClassification.from_pretrained(resolve_model("minilm"), num_labels=1)
    model = BiDoRA().apply(base)
    torch.manual_seed(1)
    factors = [p for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name]
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    run: Any = SimpleNamespace(
        layers=adapted_layers(model),
        adapter_name="default",
        step=0,
        generator=lambda *key: seeded_generator(0, *key),
    )
    _times(run, factors)
    value, gradient = _both(WHOLE, run, factors)
    print(f"whole: {value:.2f}, gradient {gradient.norm():.3f}")
    for form in DRAWN if draws else []:
        found = []
        for run.step in range(draws):
            found.append(_both(form, run, factors))
        values = [v / value for v, _ in found]
        errors = [float((g - gradient).norm() / gradient.norm()) for _, g in found]
        mean = torch.stack([g for _, g in found]).mean(0)
        of_mean = float((mean - gradient).norm() / gradient.norm())
        print(
            f"{form.rows} rows, {form.modules or 'all'} modules: value "
            f"{statistics.mean(values):.4f} ± {statistics.pstdev(values):.4f}, error of a gradient "
            f"{statistics.mean(errors):.2f}, of the mean {of_mean:.2f}"
        )


def _times(run: Any, factors: list[Tensor]) -> None:
    ms: dict[Gram, list[float]] = {form: [] for form in (WHOLE, *DRAWN)}
    for run.step in range(ROUNDS + 1):
        for form, times in ms.items():
            start = time.process_time_ns()
            _both(form, run, factors)
            times.append((time.process_time_ns() - start) / 1e6)
    for form, times in ms.items():
        low, middle, high = statistics.quantiles(times[1:], n=4)
        print(f"{form.rows} rows, {form.modules} modules: {middle:.1f} ms ({low:.1f}-{high:.1f})")


def _both(form: Gram, run: Any, factors: list[Tensor]) -> tuple[float, Tensor]:
    """Value and gradient, as one vector."""
    value = form(run)
    assert value is not None
    gradients = torch.autograd.grad(value, factors, materialize_grads=True)
    return float(value.detach()), torch.cat([g.flatten() for g in gradients])


if __name__ == "__main__":
    main()
