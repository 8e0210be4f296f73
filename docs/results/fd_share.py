"""How far BiDoRA's hypergradient moves when its difference is taken on a share of the rows.

    RANKWRIGHT_DATA=/folder/with/stsb python docs/results/fd_share.py
    RANKWRIGHT_DATA=/folder/with/stsb python docs/results/fd_share.py --dropout 0.1

all-MiniLM-L6-v2 with a new head on pairs of stsb, 16 rows of at most 48 tokens. After 30 lower
steps with AdamW, two upper steps: the central difference of the whole lower batch is the reference,
that of a share is drawn 20 times. Prints means and standard deviations over the 2 x 20 draws.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method import Method
from rankwright.core.run import Run
from rankwright.core.slots import Procedure, ProcedureState, Slots
from rankwright.job.model_names import resolve_model
from rankwright.layers import Dora
from rankwright.procedures.bilevel.hypergradient import Hypergradient, LowerStep, Mode

ROWS, LENGTH, STEPS, DRAWS = 16, 48, 30, 20
SHARES = (0.5, 0.25, 0.125)

Estimates = dict[str, list[tuple[Tensor, Tensor]]]
"""Name -> (h, h - d) of every draw, as vectors."""


class Watching(ProcedureState):
    """Lower steps alone; at the last two of them, estimates of the hypergradient."""

    needs = frozenset({"after_backward", "after_step"})
    replays = True
    _step: LowerStep

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.found: list[Estimates] = []

    def role(self, name: str) -> str:
        """Magnitudes are the upper level."""
        return "upper" if "lora_magnitude_vector" in name else "lower"

    def begin(self) -> None:
        """Note the levels."""
        self._lower, self._upper = (
            list(self.run.trainable(role).values()) for role in ("lower", "upper")
        )

    def after_backward(self) -> None:
        """Note what the lower step starts from; the upper level stands still."""
        self._step = self._estimator("fd_forward").record()
        for parameter in self._upper:
            parameter.grad = None

    def after_step(self) -> None:
        """Estimate, if this is one of the last two steps."""
        if self.run.step < STEPS:
            return
        seed, found = self.run.seed, Estimates()
        direct = self._vector("first_order")
        h = self._vector("fd_central")
        found["whole"] = [(h, h - direct)]
        h = self._vector("fd_forward")
        found["fd_forward, whole"] = [(h, h - direct)]
        for share in SHARES:
            draws = []
            for self.run.seed in range(DRAWS):
                h = self._vector("fd_central", fd_share=share)
                draws.append((h, h - direct))
            found[f"share {share:g}"] = draws
        self.run.seed = seed
        others = [self._vector("first_order", batch=k) for k in range(1, DRAWS + 1)]
        found["first order"] = [(direct, torch.zeros_like(direct))]
        found["whole, other held-out rows, first order"] = [(h, h - direct) for h in others]
        self.found.append(found)

    def _vector(self, mode: Mode, batch: int = 0, **options: Any) -> Tensor:
        estimate = self._estimator(mode, **options)(self._step, self.run.held_out(batch))
        return torch.cat([gradient.flatten() for gradient in estimate.gradient])

    def _estimator(self, mode: Mode, **options: Any) -> Hypergradient:
        return Hypergradient(self.run, self._lower, self._upper, mode, **options)


@dataclass(frozen=True)
class Watch(Procedure):
    """See `Watching`."""

    def start(self, run: Run) -> Watching:
        """At work."""
        return Watching(run)


@dataclass(frozen=True, kw_only=True)
class Watched(Method):
    """BiDoRA's layer under `Watch`."""

    name: ClassVar[str] = "watched"

    def slots(self) -> Slots:
        """The layer and the procedure."""
        return Slots(layer=Dora("full"), procedure=Watch())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dropout", type=float, default=0.0, help="of the pretrained model")
    dropout = parser.parse_args().dropout
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = resolve_model("minilm")
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    batches = _batches(AutoTokenizer.from_pretrained(folder))
    method = Watched()
    run = Loop(
        method.apply(model),
        method,
        total_steps=STEPS + 2,
        lr=1e-3,
        schedule=constant_schedule,
        held_out=lambda k: batches[STEPS + 2 + k],
    )
    for k in range(STEPS + 2):
        run.train_step(batches[k])
    procedure: Any = run.procedure
    _print(procedure.found)


def _print(found: list[Estimates]) -> None:
    for name in found[0]:
        figures: dict[str, list[float]] = {}
        for estimates in found:
            ((h, implicit),) = estimates["whole"]
            for other, part in estimates[name]:
                of_h = figures.setdefault("h", []), figures.setdefault("cos h", [])
                of_h[0].append(float((other - h).norm() / h.norm()))
                of_h[1].append(float(torch.cosine_similarity(other, h, dim=0)))
                of_part = figures.setdefault("part", []), figures.setdefault("cos part", [])
                of_part[0].append(float((part - implicit).norm() / implicit.norm()))
                of_part[1].append(float(torch.cosine_similarity(part, implicit, dim=0)))
        print(name, {key: _spread(values) for key, values in figures.items()})
        draws = [torch.stack([part for _, part in estimates[name]]) for estimates in found]
        means = [
            float((d.mean(0) - e["whole"][0][1]).norm() / e["whole"][0][1].norm())
            for d, e in zip(draws, found, strict=True)
        ]
        print("    error of the mean over draws:", [f"{mean:.3f}" for mean in means])
    ratios = [float(e["whole"][0][1].norm() / e["first order"][0][0].norm()) for e in found]
    print("implicit to direct:", [f"{ratio:.4f}" for ratio in ratios])


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def _batches(tokenizer: Any) -> list[dict[str, Tensor]]:
    path = Path(os.environ["RANKWRIGHT_DATA"]) / "stsb" / "train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    batches = []
    for start in range(0, ROWS * (STEPS + 3 + DRAWS), ROWS):
        chosen = [rows[i] for i in order[start : start + ROWS]]
        inputs = tokenizer(
            [row["sentence1"] for row in chosen],
            [row["sentence2"] for row in chosen],
            truncation=True,
            max_length=LENGTH,
            padding=True,
            return_tensors="pt",
        )
        labels = torch.tensor([row["label"] for row in chosen], dtype=torch.float32)
        batches.append({**inputs, "labels": labels})
    return batches


if __name__ == "__main__":
    main()
