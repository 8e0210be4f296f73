"""Studies with made-up files, and configurations of small ones on tiny random models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import made_up
from rankwright.cli.quiet import quiet
from rankwright.study.planning.config import StudyConfig
from rankwright.study.records.folder import StudyFolder
from rankwright.study.report.results import StudyResults, compute_results


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Three tasks, seven methods, five seeds, tuning, and one run that failed."""
    folder = tmp_path_factory.mktemp("study")
    return made_up.study(folder, rows=120, unfinished=[("cola", "full", 3)])


@pytest.fixture(scope="session")
def found(study: StudyFolder) -> StudyResults:
    """Its figures."""
    return compute_results(study)


@pytest.fixture
def small(tmp_path: Path) -> StudyFolder:
    """One task, three methods, three seeds, no tuning."""
    return made_up.study(
        tmp_path / "small", methods=("dora", "dora_again", "lora"), tasks=("rte",),
        seeds=(0, 1, 2), rows=40, trials=0,
    )  # fmt: skip


@pytest.fixture
def quietly() -> Iterator[None]:
    """Run silently, as the command line does."""
    with quiet():
        yield


@pytest.fixture
def config_of(
    bert_folder: Path, rows_file: Path, tmp_path: Path, quietly: None
) -> Callable[..., StudyConfig]:
    """Two methods, one seed, eight passes, on rows of words; every option can be changed."""
    data = {
        "data": str(rows_file),
        "text_column": "sentence",
        "label_column": "topic",
        "validation_share": 0.3,
    }

    def built(**changes: Any) -> StudyConfig:
        own = {} if "task" in changes else data
        options = {"batch_size": 4, **own, **changes.pop("options", {})}
        values: dict[str, Any] = {
            "methods": "lora,full",
            "task": None,
            "model": str(bert_folder),
            "seeds": 1,
            "budget": "8-passes",
            "output": str(tmp_path / "study"),
            **changes,
        }
        return StudyConfig(**values, options=options)

    return built
