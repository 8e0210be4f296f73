"""A run on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankwright.job import TrainConfig


@pytest.fixture
def config(bert_folder: Path, rows_file: Path, tmp_path: Path) -> TrainConfig:
    """Eight steps of four rows; a checkpoint every three."""
    return TrainConfig(
        model=str(bert_folder),
        data=str(rows_file),
        text_column="sentence",
        label_column="topic",
        validation_share=0.2,
        steps=8,
        batch_size=4,
        save_steps=3,
        output=str(tmp_path / "run"),
    )
