"""`rankwright compare` from its arguments to its output and files."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from rich.console import Console

import made_up
from rankwright.cli import compare as command
from rankwright.cli import main
from rankwright.cli.arguments import UsageError
from rankwright.cli.compare import parse_compare
from rankwright.cli.live import StudyTable
from rankwright.cli.plan_table import plan_table
from rankwright.study.errors import StoppedError
from rankwright.study.execution.protocol import REQUEST, Progress, Request
from rankwright.study.planning.config import StudyConfig
from rankwright.study.planning.plan import Plan, make_plan
from rankwright.study.planning.sizing import schedule_runs
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import Measurement
from studies import InProcess


@pytest.fixture
def arguments(bert_folder: Path, rows_file: Path, tmp_path: Path) -> list[str]:
    return [
        "compare", "--methods", "lora,full", "--model", str(bert_folder), "--data", str(rows_file),
        "--text-column", "sentence", "--label-column=topic", "--validation-share", "0.3",
        "--batch-size", "4", "--seeds", "2", "--budget", "4-passes",
        "--output", str(tmp_path / "study"),
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Processes", lambda jobs, watch: InProcess(watch))


def test_a_study_ends_with_verdicts_and_a_report(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--storage", "postgresql://me:hush@host/studies"]) == 0
    said = capsys.readouterr()
    assert re.search(r"train: full − lora = .*", said.out)
    assert "4/4 train--full--1: accuracy" in said.err
    study = StudyFolder(tmp_path / "study")
    assert len(study.records()) == 4
    assert main(["plot", str(study.run("train--full--1"))]) == 0
    assert study.study.command.startswith("rankwright compare --methods lora,full --model ")
    page = (study.path / "report.html").read_text("utf-8")
    assert "lora" in page
    assert (study.path / "report.md").exists()
    assert study.study.command.endswith("--storage 'postgresql://me:***@host/studies'")
    assert not [f for f in study.path.rglob("*") if f.is_file() and b"hush" in f.read_bytes()]


def test_a_dry_run_shows_the_plan(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--dry-run", "--tune", "3"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"lora +2 +4 +4 ", said)
    assert re.search(r"about \d+ s with 1 at a time, \d+ s of tuning before", said)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(("split", "points"), [("validation", 3), ("test", 4)])
def test_a_plan_counts_the_evaluations_of_a_run(
    tmp_path: Path, split: Literal["validation", "test"], points: int
) -> None:
    """Those on the curve but for a last one that is reported, two reported ones, two held texts."""
    folder = made_up.study(
        tmp_path, methods=("lora",), tasks=("rte",), seeds=(0,), rows=9, trials=3
    )
    measured = Measurement(
        task="rte", label="lora", seconds_per_pass=0.0, setup_seconds=2.0,
        evaluation_seconds=10.0, peak_memory_bytes=1, trainable_parameters=1,
        curve_seconds=1.0, held_seconds=3.0,
    )  # fmt: skip
    (task,) = folder.study.tasks
    task = dataclasses.replace(task, reported_split=split)
    record = dataclasses.replace(folder.study, tasks=(task,), measurements=(measured,))
    few = {"method": "lora", "space": {"learning_rate": [1e-3, 2e-3]}, "r": 8}
    rates = {"head_learning_rate": 1e-2}
    config = StudyConfig(methods=[{**few, **rates}], task="rte", curve_points=4, tune=3)
    (method,) = config.parsed_methods
    specs = {("rte", method.label): method}
    console = Console(file=io.StringIO(), width=120)
    console.print(plan_table(Plan(config, folder, record, specs)))
    assert isinstance(console.file, io.StringIO)
    run, trials = 2 + points * 1 + 2 * 10 + 2 * 3, 2 * (2 + 10)
    said = f"about {run} s with 1 at a time, {trials} s of tuning before"
    assert said in console.file.getvalue()


def test_a_failed_run_is_printed_last(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wild = [*arguments, "--methods", "full", "--learning-rate", "1e30", "--max-grad-norm", "0"]
    assert main(wild) == 1
    said = capsys.readouterr().err
    assert "full on train, seed 1: " in said
    assert said.rstrip().endswith("run the same command to try them again")


def test_a_stopped_study_says_how_to_continue(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stopped(config: object, command: str, processes: InProcess, observer: object) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)
        assert processes.stopping
        raise StoppedError

    monkeypatch.setattr(command, "compare", stopped)
    assert main(arguments) == 143
    said = capfd.readouterr().err
    assert said.splitlines()[-2:] == [
        "stopping once every process has saved a checkpoint",
        "stopped; run the same command to continue",
    ]


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "methods:\n  - lora\n  - {method: bidora, label: b, unroll_steps: 4}\n"
        "task: [stdlib-docs, {label: few, task: stdlib-docs, train_rows: 50}]\n"
        "seeds: [3, 5]\nbatch-size: 8\nbudget: 10-passes\n",
        encoding="utf-8",
    )
    config, dry = parse_compare(["--config", str(file), "--budget", "20-passes", "--bf16"])
    assert not dry
    assert [m.label for m in config.parsed_methods] == ["lora", "b"]
    assert [t.label for t in config.parsed_tasks] == ["stdlib-docs", "few"]
    assert config.parsed_seeds == (3, 5)
    assert config.budget == "20-passes"
    assert config.options == {"batch_size": 8, "bf16": True}


def test_a_study_keeps_its_yaml_file_without_passwords(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    text = "# why\nmethods: lora,dora\nstorage: postgresql://me:{}@host/db\ntask: rte\n"
    file.write_text(text.format("hush"), encoding="utf-8")
    config, _ = parse_compare(["--config", str(file)])
    assert config.file == text.format("***").rstrip("\n")
    assert config.storage == "postgresql://me:hush@host/db"
    assert parse_compare(["--methods", "lora", "--task", "rte"])[0].file is None


def test_a_rate_in_yaml_needs_no_decimal_point(tmp_path: Path) -> None:
    """PyYAML alone reads 2e-5 as a string."""
    file = tmp_path / "study.yaml"
    file.write_text(
        "methods:\n  - {method: lora, learning_rate: 2e-5, space: {r: [4, 8]}}\n"
        "  - {method: bidora, upper_lr: 1E-3, space: {learning_rate: [1e-3, .5e-2]}}\n"
        "task: rte\nhead_learning_rate: 3e-2\n",
        encoding="utf-8",
    )
    config, _ = parse_compare(["--config", str(file)])
    lora, bidora = config.parsed_methods
    assert lora.options == {"learning_rate": 2e-5}
    assert bidora.method.hyperparameters()["upper_lr"] == 1e-3
    assert str(bidora.space["learning_rate"]) == "0.001, 0.005"
    assert config.options == {"head_learning_rate": 3e-2}


STUDIES = Path(__file__).resolve().parents[2] / "docs" / "results" / "studies"


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_published_study_is_valid(file: Path) -> None:
    config, _ = parse_compare(["--config", str(file)])
    assert config.output == f"runs/studies/{file.stem}"
    assert config.baseline in [method.label for method in config.parsed_methods]
    assert len(config.parsed_seeds) >= 5
    assert config.tune > 0
    assert file.stem in re.findall(r"[\w-]+", (STUDIES / "run.sh").read_text(encoding="utf-8"))


def test_an_option_equal_to_its_default_counts_as_given() -> None:
    config, _ = parse_compare(["--methods", "lora", "--task", "rte", "--learning-rate", "5e-4"])
    assert config.options == {"learning_rate": 5e-4}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give --methods, and --task or --data"),
        (["--methods", "lora"], "give --methods, and --task or --data"),
        (["--methods", "lora", "--task", "rte", "--bacth-size", "3"], "did you mean batch_size"),
        (["--methods", "lora", "--task", "rte", "--steps", "3"], "there is no option steps"),
        (["--methods", "lora", "--task", "rte", "--jobs", "x"], "jobs = x: expected int"),
    ],
)
def test_usage_errors(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_compare(given)


def test_flags_have_hyphens_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    assert {"--dry-run", "--tuning-share", "--head-learning-rate"} <= {
        *re.findall(r"--[\w-]+", capsys.readouterr().out)
    }


def test_the_live_table(arguments: list[str], tmp_path: Path) -> None:
    config, _ = parse_compare(arguments[1:])
    planned = schedule_runs(make_plan(config, "c"))
    planned.record.save(planned.folder.description)
    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    table = StudyTable(console, jobs=2)
    table.planned(planned)
    folder = tmp_path / "run"
    Request(
        purpose="trial", study="s", task="train", label="lora", reported_split="validation",
        data_sha256={}, held_text=None, keep_adapter=True,
    ).save(folder / REQUEST)  # fmt: skip
    table.watch(folder, Progress(step=3, steps=4, phase="search", seconds=61.0, loss=0.25))
    console.print(table._draw())
    text = console.export_text()
    assert "trial of train lora: search, step 3/4, loss 0.2500, 61 s" in text
    assert "0 of 4 runs finished" in text
    table.watch(folder, None)
    console.print(table._draw())
    assert "trial of" not in console.export_text()


def test_runs_finished_on_other_machines_are_counted(tmp_path: Path) -> None:
    folder = made_up.study(
        tmp_path, methods=("lora",), tasks=("rte",), seeds=(0, 1, 2), rows=9, trials=0
    )
    there, kept = tmp_path / "records", tmp_path / "kept"
    there.rename(kept)
    console = Console(file=io.StringIO(), width=120)
    table = StudyTable(console, jobs=1)
    for _ in ("untuned", "tuned"):  # nothing was finished meanwhile: said once
        table.planned(SimpleNamespace(folder=folder, record=folder.study))
    kept.rename(there)
    folder.record("rte--lora--2").unlink()
    table.finished(next(run for run in folder.study.runs if run.seed == 1))
    assert isinstance(console.file, io.StringIO)
    first, second = console.file.getvalue().splitlines()
    assert first == "3 runs, 0 of them finished"
    assert second.startswith("2/3 rte--lora--1: ")


def test_the_time_left_follows_the_steps_left(tmp_path: Path) -> None:
    folder = made_up.study(
        tmp_path, methods=("dora", "lora"), tasks=("rte",), seeds=(0, 1), rows=9, trials=0,
        unfinished=[("rte", "lora", 1)],
    )  # fmt: skip
    table = StudyTable(Console(file=io.StringIO()), jobs=1)
    table.planned(SimpleNamespace(folder=folder, record=folder.study))
    (lora,) = [record for record in folder.records() if record.label == "lora"]
    run = folder.run("rte--lora--1")
    Request(
        purpose="run", study="s", task="rte", label="lora", reported_split="validation",
        data_sha256={}, held_text=None, keep_adapter=True,
    ).save(run / REQUEST)  # fmt: skip
    for step in (0, 100):
        table.watch(run, Progress(step=step, steps=400, phase="train", seconds=1e6))
        left = (1 - step / 400) * lora.cost.total_seconds
        assert table._describe_left() == f", about {left:.0f} s left"
