"""Data is checked before torch is imported, and not read twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rankwright.cli import main
from rankwright.cli.arguments import UsageError
from rankwright.cli.early_check import read_rows_early
from rankwright.errors import MethodError
from rankwright.job import TrainConfig
from rankwright.tasks import KINDS, Files, TaskError

HEAVY = ("torch", "transformers", "datasets", "peft", "sklearn", "scipy")
ENDS = f"""
import json, sys
from rankwright.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, [name for name in {HEAVY} if name in sys.modules]]))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    rows = [f"review {number},{('good', 'bad')[number % 2]}" for number in range(20)]
    path.write_text("\n".join(["review,grade", *rows, ",good", ",bad"]) + "\n")
    return path


def options(data: Path) -> list[str]:
    columns = ["--text-column", "review", "--label-column", "grade"]
    return ["--model", "m", "--data", str(data), "--validation-share", "0.5", *columns]


def test_bad_data_is_refused_without_torch(data: Path) -> None:
    of_others = ["--method", "dora", "--method.r", "2", "--bf16", "--trainer.seed", "--init=olora"]
    ended = subprocess.run(
        [sys.executable, "-c", ENDS, "train", *options(data), *of_others],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ended.stdout) == [1, []]
    assert ended.stderr.startswith("rankwright train: 2 of 22 rows are bad:\n")
    assert f"{data}:23: column 'review' holds ''" in ended.stderr


def test_a_study_refuses_bad_data_without_torch(data: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        f"methods: [lora, dora]\nmodel: m\nlabel_column: grade\nvalidation_share: 0.5\n"
        f"task:\n- stdlib-docs\n- {{label: mine, data: {data}, text_column: review}}\n"
    )
    of_files = ["--methods", "lora", "--seeds", "2", *options(data)]
    for given in (["--config", str(study)], of_files):
        ended = subprocess.run(
            [sys.executable, "-c", ENDS, "compare", *given],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(ended.stdout) == [1, []], ended.stderr
        assert ended.stderr.startswith("rankwright compare: 2 of 22 rows are bad:\n")


@pytest.mark.parametrize(
    "given",
    [
        ["--task", "stdlib-docs,rte", "--methods", "lora"],
        ["--task", "[3, {label: x}]"],
        ["--task", "{a: b}"],
        ["--task", "a: b: ["],
        ["--methods", "lora"],
        ["--help"],
    ],
)
def test_other_tasks_of_a_study_are_left_for_later(given: list[str]) -> None:
    assert read_rows_early("compare", given) is None


def test_rows_are_those_of_the_description(data: Path) -> None:
    rows = read_rows_early("train", [*options(data), "--skip-bad-rows", "--steps", "3"])
    assert rows is not None
    assert len(rows.splits.train) + len(rows.splits.validation) == 20
    config = TrainConfig(
        model="m", data=str(data), text_column="review", label_column="grade",
        validation_share=0.5, skip_bad_rows=True,
    )  # fmt: skip
    assert rows.task == config.make_task()


def test_a_file_of_options_and_the_command_line_that_wins(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yml"
    config.write_text(
        "model: m\ndata: other.csv\nvalidation_share: 0.5\ntext_column: review\nlabel_names:\n"
        "- good\n- bad\nlabel_column: grade\nmethod: {name: dora, r: 2}\nprocedure: flat\n"
        "trainer: {seed: 1}\nskip_bad_rows: true\n"
    )
    rows = read_rows_early("train", ["--config", str(config), f"--data={data}"])
    assert rows is not None
    assert isinstance(rows.task.source, Files)
    assert rows.task.source.train == data


def test_a_file_of_options_may_be_called_as_the_description_of_a_run(data: Path) -> None:
    file = data.with_name("run.yaml")
    file.write_text(f"model: m\ndata: {data}\nvalidation_share: 0.5\n")
    columns = ["--text-column=review", "--label-column=grade", "--config", str(file)]
    with pytest.raises(TaskError, match="2 of 22 rows are bad"):
        read_rows_early("train", columns)
    file.with_name("data.json").touch()  # of a run
    assert read_rows_early("train", columns) is None


def test_held_out_rows_are_checked_too(data: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held.csv"
    held_out.write_text("review,grade\nfine,great\n")
    given = [*options(data), "--skip-bad-rows", "--held-out-data", str(held_out)]
    with pytest.raises(TaskError, match=r"held.csv:2: column 'grade' holds 'great'"):
        read_rows_early("train", given)
    held_out.write_text("review,grade\nfine,good\n")
    rows = read_rows_early("train", given)
    assert rows is not None
    assert rows.held_out is not None
    assert rows.held_out.test is not None
    assert rows.held_out.test[0]["review"] == "fine"
    assert rows.held_out.notices == ()


@pytest.mark.parametrize("arguments", [["--help"], ["--method", "dora", "-h"]])
def test_help_needs_no_data(arguments: list[str]) -> None:
    assert read_rows_early("train", arguments) is None
    assert read_rows_early("eval", ["runs/x"]) is None


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--lable-column", "x"], UsageError, "no option lable_column; did you mean label_column"),
        (["--epochs", "x"], UsageError, "epochs = x: expected float"),
        (["--epochs", "0"], MethodError, "epochs = 0.0: expected a finite number above 0"),
        (["--config", "none.yaml"], MethodError, "cannot read --config none.yaml"),
    ],
)
def test_errors_of_options_are_reported_first(
    data: Path, more: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_rows_early("train", [*options(data), *more])


def test_rows_are_not_read_again(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    of_files = Files.read
    monkeypatch.setattr(Files, "read", lambda self: read.append(self) or of_files(self))
    assert train("--method", "lora", "--steps", "1") == 0
    assert len(read) == 1


@pytest.mark.parametrize("form", [["--data", "{0}", "{1}"], ["--data={0}", "--data", "{1}"]])
def test_several_files_of_data(data: Path, form: list[str]) -> None:
    other = data.with_name("more.csv")
    other.write_text("review,grade\nx,good\n")
    given = [argument.format(data, other) for argument in form]
    rows = read_rows_early(
        "train", [*options(data)[:2], *options(data)[4:], *given, "--skip-bad-rows"]
    )
    assert rows is not None
    assert isinstance(rows.task.source, Files)
    assert rows.task.source.train == (data, other)


@pytest.mark.parametrize("form", [["[yes, no]"], ["yes,no"], ["yes", "no"], ["file"]])
def test_names_of_labels_are_words(tmp_path: Path, form: list[str]) -> None:
    data, file = tmp_path / "d.csv", tmp_path / "run.yaml"
    data.write_text("text,label\n" + "".join(f"{n},{('yes', 'no')[n % 2]}\n" for n in range(20)))
    file.write_text("model: m\nlabel_names: [yes, no]\n")
    given = ["--config", str(file)] if form == ["file"] else ["--model=m", "--label-names", *form]
    rows = read_rows_early("train", [*given, "--data", str(data), "--validation-share=0.5"])
    assert rows is not None
    assert rows.task.summary(rows.splits)[0].startswith("labels of the ")
    assert rows.task.label_names == ("yes", "no")


@pytest.mark.parametrize("end", [["--kind"], ["--kind", "--help"]])
@pytest.mark.parametrize("command", ["train", "compare"])
def test_kind_lists_its_values(
    command: str, end: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--model", "m", *end]) == 0
    shown = capsys.readouterr().out
    for kind, task in KINDS.items():
        assert f"  {kind}" in shown
        assert (task.__doc__ or "").partition("\n")[0] in shown


def test_an_option_without_a_value_is_reported(data: Path) -> None:
    with pytest.raises(UsageError, match="--epochs: expected a value after it"):
        read_rows_early("train", [*options(data), "--epochs"])
