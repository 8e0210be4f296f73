"""The tables in docs/results are those of the kept records."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from rankwright.study.records.folder import StudyFolder
from rankwright.study.report.results import StudyResults, TaskResults, compute_results

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
KEPT = sorted(path for path in (RESULTS / "records").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def study_table() -> Any:
    """The script that prints the tables."""
    spec = importlib.util.spec_from_file_location("study_table", RESULTS / "study_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(task: TaskResults) -> int:
    """Return the number of finished runs of a task."""
    return sum(len(method.runs) for method in task.methods)


def planned(study: StudyResults, task: TaskResults) -> int:
    """Return the number of planned runs of a task."""
    return sum(run.task == task.task.task for run in study.study.runs)


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_tables_and_verdicts_are_those_of_the_records(kept: Path, study_table: Any) -> None:
    page = (RESULTS / "compare.md").read_text(encoding="utf-8").splitlines()
    study = compute_results(StudyFolder(kept))
    finished = [task for task in study.tasks if runs(task) == planned(study, task)]
    if not finished:
        pytest.skip(f"{study.finished} of {len(study.study.runs)} runs so far")
    for task in finished:
        missing = [line for line in study_table.table(task, study) if line not in page]
        assert not missing
        for verdict in study_table.describe_verdicts(task):
            found = verdict.partition(":")[0]  # "> dora − lora = +0.4 ± 0.5"
            assert any(line.startswith(f"{found}:") for line in page), found
