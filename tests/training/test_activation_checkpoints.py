"""Activation checkpoints change no number: what is computed again is what was computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from method_table import METHODS, method_named
from trainers import adapter, build_trainer

CHECKPOINTS = {
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
}


def trained(kind: str, output: Path, name: str, fields: dict[str, Any], **changes: Any) -> Any:
    trainer = build_trainer(method_named(name, **fields), kind, output, double=True, **changes)
    trainer.train()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *((name, {}) for name in METHODS),
        ("dora", {"lora_dropout": 0.3}),
        ("cola", {"lora_dropout": 0.3}),
        ("bidora", {"lora_dropout": 0.3}),
        ("bidora", {"hypergradient": "exact"}),
        ("bidora", {"hypergradient": "fd_central"}),
        ("bidora", {"hypergradient": "betty"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_training(kind: str, name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    plain = trained(kind, tmp_path / "plain", name, fields)
    again = trained(kind, tmp_path / "again", name, fields, **CHECKPOINTS)
    assert again.model.get_base_model().is_activation_checkpointing
    assert losses(again) == pytest.approx(losses(plain), rel=1e-5)
    found, expected = adapter(again.model), adapter(plain.model)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-7)
