"""A command line that trains a tiny model in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rankwright.cli import main

Train = Callable[..., int]


@pytest.fixture
def options(bert_folder: Path, rows_file: Path) -> list[str]:
    """Options of `rankwright train` that name a model, data and a short run."""
    return [
        *("--model", str(bert_folder), "--data", str(rows_file), "--validation-share", "0.2"),
        *("--text-column", "sentence", "--label-column", "topic"),
        *("--steps", "6", "--batch-size", "4", "--learning-rate", "1e-3"),
    ]


@pytest.fixture
def train(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """`rankwright train` with these options and more, in `tmp_path`; files of `--data` add up."""
    monkeypatch.chdir(tmp_path)
    at = options.index("--data")
    others = options[:at] + options[at + 2 :]
    return lambda *more: main(["train", *(others if "--data" in more else options), *more])
