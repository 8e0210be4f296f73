"""`rankwright report`."""

from __future__ import annotations

from pathlib import Path

import pytest

import made_up
from rankwright.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made_up.study(
        tmp_path, methods=("dora", "lora"), tasks=("rte",), seeds=(0, 1), rows=20, trials=0
    )
    return tmp_path


def test_both_files_are_rebuilt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown == f"report: {folder / 'report.html'}\nsummary: {folder / 'report.md'}\n"
    assert "<!doctype html>" in (folder / "report.html").read_text("utf-8")
    assert (folder / "report.md").read_text("utf-8").startswith("# made-up\n")


def test_another_baseline(folder: Path) -> None:
    assert main(["report", str(folder), "--baseline", "lora"]) == 0
    assert "\n- dora − lora = " in (folder / "report.md").read_text("utf-8")
    assert main(["report", str(folder)]) == 0
    assert "\n- lora − dora = " in (folder / "report.md").read_text("utf-8")


def test_one_format_to_a_file(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "there" / "summary.md"
    assert main(["report", str(folder), "--format", "markdown", "--output", str(target)]) == 0
    assert target.is_file()
    assert not (folder / "report.html").exists()


def test_the_card_lies_beside_the_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--format", "model-card", "--method", "lora", "--seed", "1"]
    card = folder / "runs" / "rte--lora--1" / "adapter" / "README.md"
    assert main(["report", str(folder), *arguments]) == 1
    assert f"{card.parent} does not exist" in capsys.readouterr().err
    card.parent.mkdir(parents=True)
    assert main(["report", str(folder), *arguments]) == 0
    assert "# lora on rte" in card.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x.html"], "--output x.html: give --format too, to say which file it is for"),
        (["--baseline", "olora"], "baseline = 'olora': expected one of dora, lora"),
        (["--seed", "1"], "--seed 1: only --format model-card takes it"),
        (["--format", "model-card", "--method", "olora"], "--method olora: no finished run"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "holds no study" in capsys.readouterr().err
