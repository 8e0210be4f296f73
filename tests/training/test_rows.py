"""A share of a batch under the Trainer, whatever its losses are divided by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rankwright.methods import BiDoRA
from trainers import build_trainer


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_mean_over_halves_is_the_loss(kind: str, accumulation: int, tmp_path: Path) -> None:
    """A Llama divides the sum over tokens by the targets of the step, a classifier takes a mean."""
    method = BiDoRA(r=2, lora_alpha=4, retrain=False, fd_share=0.5)
    changes = {"max_steps": 1, "gradient_accumulation_steps": accumulation}
    trainer = build_trainer(method, kind, tmp_path, double=True, dropout=False, **changes)
    trainer.train()
    run = trainer.run
    for batch in run.micro_batches:
        if kind == "llama":  # a row with fewer targets than the others
            batch.inputs["labels"][0, : batch.inputs["labels"].shape[1] // 2] = -100
        halves = [run.loss(run.some_rows(batch, rows)) for rows in torch.randperm(4).chunk(2)]
        # in float32, as the losses are
        torch.testing.assert_close(sum(halves) / 2, run.loss(batch), rtol=1e-6, atol=0)
    assert trainer.cost().passes == method.made_of().passes(1) == 3.0
