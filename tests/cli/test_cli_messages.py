"""Messages of the command line name its options, and places that cannot be written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rankwright.cli import main

Train = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--steps", "0"), "--steps = 0: expected at least 1"),
        (("--batch-size", "0"), "--batch-size = 0: expected at least 1"),
        (("--method", "lora", "--method.r", "0"), "--method.r = 0: expected an integer of at"),
        (
            ("--method", "lora", "--procedure", "flat", "--procedure.rho", "-1"),
            "--procedure.flat.rho = -1.0: expected",
        ),
    ],
)
def test_a_value_out_of_range_is_reported_by_its_option(
    train: Train, given: tuple[str, ...], said: str, capsys: Captured
) -> None:
    assert train(*given) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"rankwright train: {said}")
    assert "TrainConfig" not in shown


def test_so_in_a_study(capsys: Captured) -> None:
    for options, said in (
        (("--jobs", "0"), "--jobs = 0: expected at least 1"),
        (("--batch-size", "0"), "--batch-size = 0: expected at least 1"),
    ):
        command = ["compare", "--methods", "lora", "--task", "stdlib-docs", *options]
        assert main(command) == 1
        assert capsys.readouterr().err.startswith(f"rankwright compare: {said}")


def test_a_run_folder_is_not_reported_as_an_option(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "run.yaml").write_text("model: m\ntask: t\nsteps: 0\nmethod: {name: lora}\n")
    assert main(["eval", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "run.yaml does not describe a run" in said
    assert "steps = 0: expected at least 1" in said


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("file", "file is a file, not a folder"),
        ("file/run", "file is a file, not a folder"),
        ("/sys/nothing", "cannot write to /sys/nothing: "),
        ("/proc/nothing", "cannot write to /proc/nothing: "),
    ],
)
def test_a_run_folder_that_cannot_be_written_is_refused(
    train: Train, tmp_path: Path, output: str, reason: str, capsys: Captured
) -> None:
    (tmp_path / "file").touch()
    assert train("--output", output) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert "choose another --output" in said
    assert "Errno" not in said


@pytest.mark.parametrize("command", [["eval"], ["plot"], ["export", "--as", "adapter"]])
def test_an_output_that_eval_plot_or_export_cannot_write_is_refused(
    train: Train, tmp_path: Path, command: list[str], capsys: Captured
) -> None:
    assert train("--method", "lora", "--output", "run", "--steps", "1") == 0
    (tmp_path / "file").touch()
    for output in ("file/out.png", "/sys/out.png"):
        capsys.readouterr()
        assert main([command[0], "run", *command[1:], "--output", output]) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "cannot write" in shown.err
        assert "choose another --output" in shown.err or "name another folder" in shown.err
