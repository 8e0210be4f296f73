"""A study at work, as a terminal and a pipe show it."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import made_up
from rankwright.cli.live import StudyTable
from rankwright.study.execution.protocol import REQUEST, Progress, Request
from rankwright.study.records.folder import StudyFolder


def table(folder: StudyFolder, *, terminal: bool) -> tuple[StudyTable, io.StringIO]:
    screen = io.StringIO()
    shown = StudyTable(Console(file=screen, force_terminal=terminal, width=120), jobs=1)
    plan: Any = SimpleNamespace(folder=folder, record=folder.study)
    shown.planned(plan)
    return shown, screen


def at_work(folder: StudyFolder, name: str, step: int, seconds: float) -> tuple[Path, Progress]:
    task, label, _ = name.split("--")
    path = folder.run(name)
    path.mkdir(parents=True, exist_ok=True)
    Request(
        purpose="run", study=str(folder.path), task=task, label=label, reported_split="validation",
        data_sha256={}, held_text=None, keep_adapter=True,
    ).save(path / REQUEST)  # fmt: skip
    return path, Progress(step=step, steps=400, phase="train", seconds=seconds, loss=0.5)


@pytest.fixture
def unfinished(tmp_path: Path) -> StudyFolder:
    """Two runs, neither of them finished."""
    runs = [("rte", label, 0) for label in ("dora", "lora")]
    folder = made_up.study(
        tmp_path / "study", methods=("dora", "lora"), tasks=("rte",), seeds=(0,), rows=10,
        trials=0, unfinished=runs,
    )  # fmt: skip
    for _, label, _ in runs:
        folder.failure(f"rte--{label}--0").unlink()
    return folder


def drawn(shown: StudyTable) -> str:
    screen = io.StringIO()
    Console(file=screen, width=120).print(shown._draw())
    return screen.getvalue()


def test_the_time_left_is_told_before_any_run_is_finished(unfinished: StudyFolder) -> None:
    """The first run has made a quarter of its steps in ten seconds; the second takes as long."""
    shown, _ = table(unfinished, terminal=True)
    assert "left" not in drawn(shown)
    shown.watch(*at_work(unfinished, "rte--dora--0", step=100, seconds=10.0))
    text = drawn(shown)
    assert "rte dora: train, step 100/400, loss 0.5000, 10 s, about 30 s left" in text
    assert "0 of 2 runs finished, about 70 s left" in text
    shown.watch(unfinished.run("rte--dora--0"), None)
    assert "left" not in drawn(shown)


def test_a_run_before_its_first_step_has_no_time_left(unfinished: StudyFolder) -> None:
    shown, _ = table(unfinished, terminal=True)
    shown.watch(*at_work(unfinished, "rte--dora--0", step=0, seconds=4.0))
    assert "rte dora: train, step 0/400, loss 0.5000, 4 s\n" in drawn(shown).replace(" \n", "\n")


def test_a_pipe_gets_a_line_for_every_finished_run(tmp_path: Path) -> None:
    folder = made_up.study(
        tmp_path / "study", methods=("dora", "lora"), tasks=("rte",), seeds=(0,), rows=10, trials=0
    )
    shown, screen = table(folder, terminal=False)
    with shown:
        shown.finished(folder.study.runs[0])
    first, second = screen.getvalue().splitlines()
    assert first == "2 runs, 2 of them finished"
    assert second.startswith("2/2 rte--dora--0: accuracy 0.")
