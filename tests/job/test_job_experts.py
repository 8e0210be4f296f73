"""A run over experts says so before it trains, and what it wrote is exported in every form."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from rankwright.errors import MethodError
from rankwright.job import TrainConfig, train
from rankwright.methods import DoRA, LoRA
from saved_models import save_mixtral


@pytest.fixture
def mixtral(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    return dataclasses.replace(
        config,
        model=str(save_mixtral(tmp_path / "mixtral")),
        kind="causal_lm",
        text_column=None,
        label_column=None,
        prompt_column="sentence",
        completion_column="topic",
        steps=1,
    )


def test_adapted_modules_are_reported_once(
    mixtral: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    with caplog.at_level(logging.WARNING, "rankwright"):
        train(mixtral, LoRA(r=4), notify=said.append)
    (line,) = [text for text in said if "expert" in text]
    assert "mlp.experts.gate_up_proj (rank 8, in 2 layers)" in line
    assert "expert" not in caplog.text


def test_a_refusal_leaves_nothing_behind(mixtral: TrainConfig) -> None:
    with pytest.raises(MethodError, match=r"dora does not work on .*target_modules=\["):
        train(mixtral, DoRA(r=4))
    assert not Path(str(mixtral.output)).exists()
