"""`rankwright plot`: the log of a run as panels over the same steps."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rankwright.cli import main
from rankwright.cli.drawing import draw
from rankwright.cli.run_log import TRAINING, VALIDATION, Line, Quantity, RunLog
from rankwright.job import RunFolder, TrainConfig
from rankwright.job.observing import PHASES
from rankwright.methods import BiDoRA
from rankwright.training.manifest import MANIFEST

STEPS = 8


@pytest.fixture(scope="module")
def run(bert_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of BiDoRA: four steps of search, four of retraining, one learning rate."""
    folder = tmp_path_factory.mktemp("run") / "bidora"
    options = ["--text-column", "sentence", "--label-column", "topic", "--validation-share", "0.2"]
    names = ["--model", str(bert_folder), "--data", str(rows_file), "--output", str(folder)]
    short = ["--steps", str(STEPS), "--method.r", "2", "--method.search-fraction", "0.5"]
    flat = ["--schedule", "constant", "--warmup", "0", "--learning-rate", "1e-2"]
    assert main(["train", "--method", "bidora", *names, *options, *short, *flat]) == 0
    return folder


def log_of(run: Path) -> RunLog:
    return RunLog.of(RunFolder.read(run))


def shown(axes: Any) -> list[str]:
    """The texts beside a panel: its name, the names of its lines, phases."""
    return [text.get_text() for text in axes.texts]


def test_a_picture_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", str(run)]) == 0
    assert capsys.readouterr().out == f"plot: {run / 'plot.png'}\n"
    assert (run / "plot.png").read_bytes().startswith(b"\x89PNG")
    drawn = tmp_path / "drawn.svg"
    assert main(["plot", str(run), "--only", "loss", "eval_accuracy", "--output", str(drawn)]) == 0
    texts = ElementTree.parse(drawn).iter("{http://www.w3.org/2000/svg}text")
    assert {"bidora on train, seed 0", "loss, nats", "optimizer step"} <= {t.text for t in texts}


def test_the_values_are_those_of_the_history_and_the_result(run: Path) -> None:
    entries = json.loads((run / "history.json").read_text("utf-8"))
    result = json.loads((run / "result.json").read_text("utf-8"))
    log = log_of(run)
    loss, accuracy = log.quantities["loss"], log.quantities["accuracy"]
    assert loss.lines[TRAINING].steps == list(range(1, STEPS + 1))
    assert loss.lines[TRAINING].values == [e["loss"] for e in entries if "loss" in e]
    assert loss.lines[VALIDATION].steps == [2, 3, 5, 6, 8]
    assert loss.lines[VALIDATION].values == [e["eval_loss"] for e in entries if "eval_loss" in e]
    assert accuracy.lines.keys() == {VALIDATION}
    assert accuracy.lines[VALIDATION].steps == [0, 2, 3, 5, 6, 8]
    ends = [accuracy.lines[VALIDATION].values[place] for place in (0, -1)]
    assert ends == [result["before"]["accuracy"], result["after"]["accuracy"]]
    assert [*log.quantities][:3] == ["loss", "accuracy", "macro_f1"]
    assert [*log.quantities][-2:] == ["learning_rate", "grad_norm"]
    assert not {"epoch", "step", "passes", "runtime", "train_loss", "total_flos"} & {
        *log.quantities
    }


def test_phases_are_marked_and_named(run: Path) -> None:
    log = log_of(run)
    assert log.phases == [("search", 4), ("retrain", 4)]
    assert log.steps == STEPS
    panels = draw(log).get_axes()
    for number, axes in enumerate(panels):
        assert ("search" in shown(axes)) == (number < 2)  # above the first row
        assert ("retrain" in shown(axes)) == (number < 2)
        assert [line.get_xdata() for line in axes.lines[-1:]] == [[4, 4]]


def test_all_panels_share_the_axis_of_whole_steps(run: Path) -> None:
    panels = draw(log_of(run)).get_axes()
    assert {axes.get_xlim() for axes in panels} == {(0, STEPS)}
    for axes in panels:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert [axes.get_xlabel() for axes in panels[-2:]] == ["optimizer step"] * 2
    assert {axes.get_xlabel() for axes in panels[:-2]} == {""}


def test_constant_quantities_are_a_line_of_text(run: Path) -> None:
    figure = draw(log_of(run))
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == "bidora on train, seed 0"
    assert any(text.startswith("the same throughout: ") for text in texts)
    assert any("learning rate 0.01" in text for text in texts)
    assert not any("learning rate" in shown(axes) for axes in figure.get_axes())


def test_quantities_have_readable_names_and_units(run: Path) -> None:
    panels = [shown(axes) for axes in draw(log_of(run)).get_axes()]
    assert {"loss, nats", TRAINING, VALIDATION} <= {*panels[0]}
    names = [texts[0] for texts in panels]
    assert "gradient norm, before clipping" in names
    assert "hypergradient norm" in names
    assert not any("_" in name for name in names)


def test_an_unfinished_run_is_drawn_up_to_its_newest_checkpoint(run: Path, tmp_path: Path) -> None:
    whole = log_of(run)
    copy = shutil.copytree(run, tmp_path / "unfinished")
    for name in ("history.json", "result.json", MANIFEST):
        (copy / name).unlink()
    log = log_of(copy)
    assert log.phases == whole.phases
    assert log.summary == f"not finished: step {STEPS} of {STEPS}"
    assert log.quantities["loss"] == whole.quantities["loss"]
    assert log.quantities["accuracy"].lines[VALIDATION].steps == [2, 3, 5, 6, 8]
    draw(log)


def made(quantities: Mapping[str, Quantity], phases: Sequence[tuple[str, int]] = ()) -> RunLog:
    return RunLog("lora on x, seed 0", "a summary", quantities, phases, 40)


def test_a_metric_is_drawn_within_its_bounds() -> None:
    line = Line([0, 20, 40], [0.2, 1.0, 0.99])
    (axes,) = draw(made({"a": Quantity("accuracy", "", {VALIDATION: line}, (0.0, 1.0))})).get_axes()
    low, high = axes.get_ylim()
    assert 0 <= low < 0.2
    assert high == 1.0


def test_a_quantity_of_whole_numbers_has_whole_ticks() -> None:
    rounds, loss = Line([1, 20, 40], [1.0, 2.0, 2.0]), Line([1, 40], [1.0, 1.5])
    quantities = {"round": Quantity("round", "", {TRAINING: rounds})}
    quantities["loss"] = Quantity("loss", "", {TRAINING: loss})
    whole, other = (
        {float(tick).is_integer() for tick in axes.get_yticks()}
        for axes in draw(made(quantities)).get_axes()
    )
    assert whole == {True}
    assert False in other


def test_many_phases_have_numbers_or_no_labels() -> None:
    line = {TRAINING: Line([1, 40], [2.0, 1.0])}
    for count, expected in ((2, "round 1/2"), (20, "1"), (400, "")):
        phases = [(f"round {n}/{count}", 40 // count) for n in range(1, count + 1)]
        phases = phases if count < 40 else [(f"round {n}/{count}", 1) for n in range(1, count + 1)]
        log = RunLog("t", "s", {"loss": Quantity("loss", "", line)}, phases, max(40, count))
        (axes,) = draw(log).get_axes()
        assert shown(axes)[1] == expected


def test_a_log_of_constant_quantities_has_no_panel() -> None:
    """An example is a log of one step."""
    log = made({"loss": Quantity("loss", "nats", {TRAINING: Line([1], [0.7])})})
    figure = draw(log)
    assert figure.get_axes() == []
    assert "the same throughout: loss 0.7" in [text.get_text() for text in figure.texts]


def test_non_finite_values_are_left_out_of_the_curve() -> None:
    line = Line([1, 2, 3], [1.0, math.inf, 2.0])
    (axes,) = draw(made({"x": Quantity("x", "", {TRAINING: line})})).get_axes()
    low, high = axes.get_ylim()
    assert math.isfinite(low)
    assert 2.0 <= high < 3.0


def test_the_loss_of_a_regression_is_in_squared_units(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [
        {"step": 0, PHASES: [{"name": "train", "steps": 2}]},
        {"step": 1, "epoch": 0.5, "loss": 3.0},
        {"step": 2, "epoch": 1.0, "eval_loss": 2.0, "eval_mse": 2.0, "eval_pearson": 0.1},
    ]
    config = TrainConfig(model=str(bert_folder), data="scores.csv", kind="regression",
                         text_column="text", label_column="score")  # fmt: skip
    monkeypatch.setattr(RunFolder, "logged", lambda _folder: entries)
    log = RunLog.of(RunFolder(tmp_path, config, BiDoRA()))
    assert log.quantities["loss"].unit == "squared units"
    assert log.quantities["mse"].name == "mean squared error"
    assert log.title == "bidora on scores, seed 0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["RUN", "--only", "sparsity"],
            "the run logged no sparsity; it logged loss, accuracy, macro_f1",
        ),
        (["RUN", "--output", "plot.nope"], "cannot write plot.nope"),
        (["nowhere"], "holds no run"),
    ],
)
def test_plot_refuses(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", *(str(run) if a == "RUN" else a for a in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_plot_of_a_run_without_a_log(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / "run.yaml", tmp_path)
    assert main(["plot", str(tmp_path)]) == 1
    assert "holds no log yet: the run is not finished" in capsys.readouterr().err


def test_plot_without_matplotlib(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["plot", str(run)]) == 1
    assert "pip install 'rankwright[plot]'" in capsys.readouterr().err
