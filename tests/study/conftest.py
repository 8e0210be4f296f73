"""Studies whose files are made up, one for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

import made_up
from rankwright.study.figures import StudyFigures, figures
from rankwright.study.records import StudyFolder


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Three tasks, seven methods, five seeds, tuning, and one run that failed."""
    folder = tmp_path_factory.mktemp("study")
    return made_up.study(folder, rows=120, unfinished=[("cola", "full", 3)])


@pytest.fixture(scope="session")
def found(study: StudyFolder) -> StudyFigures:
    """Its figures."""
    return figures(study)


@pytest.fixture
def small(tmp_path: Path) -> StudyFolder:
    """One task, three methods, three seeds, no tuning."""
    return made_up.study(
        tmp_path / "small", methods=("dora", "dora_again", "lora"), tasks=("rte",),
        seeds=(0, 1, 2), rows=40, trials=0,
    )  # fmt: skip
