"""`rankwright eval`, `export` and `methods`."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rankwright.cli import main
from rankwright.cli.quiet import quiet
from rankwright.tasks import PreparedTask
from rankwright.training.export import merged as export_merged
from rankwright.training.manifest import MANIFEST
from saved_models import adapter_bytes


@pytest.fixture(scope="module")
def run(bert_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of DoRA."""
    folder = tmp_path_factory.mktemp("run") / "dora"
    options = ["--text-column", "sentence", "--label-column", "topic", "--validation-share", "0.2"]
    names = ["--model", str(bert_folder), "--data", str(rows_file), "--output", str(folder)]
    short = ["--steps", "6", "--learning-rate", "1e-2", "--method.r", "2"]
    assert main(["train", "--method", "dora", *names, *options, *short]) == 0
    return folder


def test_eval_computes_on_the_accelerator(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved: list[object] = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(PeftModel, "to", lambda _model, device: moved.append(device))
    assert main(["eval", str(run)]) == 0
    assert moved == [torch.device("cuda")]
    assert "accuracy" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("command", "file", "text"),
    [
        (["eval"], "adapter/adapter_model.safetensors", None),
        (["eval"], "adapter/adapter_model.safetensors", "garbage"),
        (["export", "--as", "lora"], "adapter/adapter_config.json", "{"),
        (["export", "--as", "lora"], "head.json", None),
        (["eval"], "head.json", "{"),
        (["eval"], "head.json", "[1]"),
        (["eval"], "adapter/adapter_config.json", "[]"),
        (["export", "--as", "adapter"], "result.json", "[]"),
        (["export", "--as", "lora"], "result.json", "{}"),
        (["export", "--as", "lora"], "data.json", "[]"),
        (["plot"], "history.json", "["),
        (["plot"], "history.json", "{}"),
    ],
)
def test_a_run_folder_that_is_not_whole_names_the_file(
    run: Path,
    tmp_path: Path,
    command: list[str],
    file: str,
    text: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / file).unlink()
    if text is not None:
        (copy / file).write_text(text, "utf-8")
    assert main([command[0], str(copy), *command[1:]]) == 1
    said = capsys.readouterr().err
    problem = f"{copy} lacks {file}" if text is None else f"{copy / file} is not what was written"
    assert problem in said
    assert "expected the whole folder as `rankwright train` wrote it" in said
    (copy / MANIFEST).unlink()  # as version 0.1 left it
    assert main([command[0], str(copy), *command[1:]]) == 1
    said = capsys.readouterr().err
    named = "adapter" if text == "garbage" else file
    assert f"cannot read {copy / named}: " in said
    assert "expected the whole folder as `rankwright train` wrote it" in said


def test_eval_gives_the_metrics_of_the_result(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "metrics.json"
    assert main(["eval", str(run), "--batch-size", "7", "--output", str(written)]) == 0
    out, err = capsys.readouterr()
    assert "all 13 validation rows are reported on" in err.splitlines()
    metrics = json.loads(out)
    assert metrics == json.loads((run / "result.json").read_text("utf-8"))["after"]
    assert metrics == json.loads(written.read_text("utf-8"))
    assert main(["eval", str(run), "--split", "train", "--rows", "5"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out).keys() == metrics.keys()
    assert "5 of the 47 train rows are reported on, drawn by class with seed 0" in err
    assert main(["eval", str(run), "--rows", "1000"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == metrics
    assert "all 13 validation rows are reported on; 1,000 were asked for" in err
    assert main(["eval", str(run), "--batch_size=7"]) == 0  # an underscore is a hyphen
    assert json.loads(capsys.readouterr().out) == metrics


def test_a_nan_metric_is_null_with_a_reason(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"pearson": math.nan, "perplexity": math.inf, "accuracy": 0.5}
    monkeypatch.setattr(PreparedTask, "evaluate", lambda *_args, **_options: found)
    assert main(["eval", str(run), "--output", str(tmp_path / "metrics.json")]) == 0
    shown = capsys.readouterr()
    expected = {"pearson": None, "perplexity": None, "accuracy": 0.5}
    assert json.loads(shown.out, parse_constant=pytest.fail) == expected
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == expected
    assert "pearson is nan on these rows" in shown.err
    assert "perplexity is inf on these rows" in shown.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere"], 1, "holds no run"),
        (["RUN", "--split", "test"], 1, "the task has none"),
        (["RUN", "--split", "all"], 2, "invalid choice"),
        (["RUN", "--rows", "0"], 1, "--rows 0: expected at least 1"),
        ([], 2, "RUN"),
    ],
)
def test_eval_refuses(
    run: Path,
    arguments: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["eval", *(str(run) if a == "RUN" else a for a in arguments)]) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "options", "file"),
    [
        ("adapter", [], "adapter_model.safetensors"),
        ("lora", ["--rank", "3"], "adapter_model.safetensors"),
        ("merged", [], "model.safetensors"),
    ],
)
def test_export(
    run: Path,
    tmp_path: Path,
    kind: str,
    options: list[str],
    file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "out"
    command = ["export", str(run), "--as", kind, *options, "--output", str(target)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert str(target) in shown
    assert "relative error of the change" in shown
    assert (target / file).stat().st_size > 0
    assert (target / "tokenizer.json").is_file()
    if kind != "merged":
        card = (target / "README.md").read_text("utf-8")
        assert card.count("label2id={'high': 0, 'low': 1},") == 2
        assert (target / "base_config" / "config.json").is_file()
    assert main(command) == 1
    assert "not empty" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_export_has_a_folder_of_its_own_in_the_run(run: Path) -> None:
    assert main(["export", str(run), "--as=adapter"]) == 0
    exported = run / "adapter-export" / "adapter_model.safetensors"
    assert exported.read_bytes() == adapter_bytes(run)


def elsewhere(run: Path, rows_file: Path, folder: Path) -> tuple[Path, Path]:
    """The run's folder moved, and where it now looks for its rows; nothing is there."""
    moved, rows = shutil.copytree(run, folder / "run"), folder / "rows.jsonl"
    described = (moved / "run.yaml").read_text("utf-8")
    (moved / "run.yaml").write_text(described.replace(str(rows_file), str(rows)), "utf-8")
    return moved, rows  # to be read with --edited


def test_export_needs_no_data(run: Path, rows_file: Path, tmp_path: Path) -> None:
    moved, rows = elsewhere(run, rows_file, tmp_path)
    assert not rows.exists()
    assert main(["export", str(moved), "--as=merged"]) == 1
    assert main(["export", str(moved), "--as=merged", "--edited"]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(moved / "merged-export")
    topics = {json.loads(line)["topic"] for line in rows_file.read_text("utf-8").splitlines()}
    assert model.config.id2label == dict(enumerate(sorted(topics)))


def test_eval_refuses_rows_with_other_labels(
    run: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A label more would be a head of another size; one renamed, indices of other classes."""
    moved, rows = elsewhere(run, rows_file, tmp_path)
    first = json.loads(rows_file.read_text("utf-8").partition("\n")[0])["topic"]
    text = rows_file.read_text("utf-8").replace(f'"{first}"', '"zzz"')
    rows.write_text(text, encoding="utf-8")
    assert main(["eval", str(moved), "--edited"]) == 1
    said = capsys.readouterr().err
    assert "was trained as AutoModelForSequenceClassification with the labels" in said
    assert "zzz. Evaluate it on the data that it was trained on" in said


def test_a_run_without_its_head_is_reported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "head.json").unlink()
    assert main(["export", str(copy), "--as=adapter"]) == 1
    assert "lacks head.json; expected the whole" in capsys.readouterr().err
    assert main(["export", str(copy), "--as=adapter", "--edited"]) == 1
    assert "head.json: No such file or directory; expected the whole" in capsys.readouterr().err


def test_the_merged_model_has_the_tokenizer_that_it_was_trained_with(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(llama_folder, tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text("utf-8"))
    del settings["pad_token"]  # as Llama's has none
    (base / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    run, names = tmp_path / "run", ["--model", str(base), "--data", str(rows_file)]
    options = ["--text-column", "sentence", "--label-column", "topic", "--validation-share", "0.2"]
    short = ["--method", "lora", "--steps", "1", "--output", str(run)]
    assert main(["train", *names, *options, *short]) == 0
    assert main(["export", str(run), "--as", "merged"]) == 0
    for saved in (run / "adapter", run / "merged-export"):
        assert AutoTokenizer.from_pretrained(saved).pad_token == "</s>"


def test_the_bound_of_the_comparison_can_be_set(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message of the refusal names the option, which does what it says."""
    check = export_merged.logit_difference

    def off(logits: Tensor, expected: Tensor, tolerance: float) -> float:
        return check(logits + 0.1 * expected.abs().max(), expected, tolerance)

    monkeypatch.setattr(export_merged, "logit_difference", off)
    command = ["export", str(run), "--as=merged", "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert "is set by --tolerance on the command line" in capsys.readouterr().err
    assert main([*command, "--tolerance", "0.05"]) == 1
    assert main([*command, "--tolerance", "0.2"]) == 0
    assert main([*command, "--tolerance", "-1"]) == 1
    assert "--tolerance -1.0: expected a finite number" in capsys.readouterr().err


def test_a_rank_belongs_to_lora(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--as", "merged", "--rank", "3"]) == 1
    assert "only --as lora has a rank" in capsys.readouterr().err
    assert not (run / "merged-export").exists()


def test_methods_is_a_table_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "bidora DoRA with the magnitudes learned on held-out rows" in shown
    assert "slots layer, penalty, procedure artefact DoRA adapter of rank r cost 3 pass" in shown


def test_show_has_equations_reference_fields_and_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["methods", "show", "bidora"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "V = W + s B A, n = |V| row by row",
        "arXiv 2410.09758",
        "--method.val_fraction 0.2 Share of the training rows held out",
        "--method.lora_alpha 16 Numerator of the scaling",
        "passes per search step",
    ):
        assert words in shown


def test_show_lets_the_method_have_the_last_word_on_a_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["methods", "show", "xgblora"]) == 0
    assert "Rank of a booster" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["show"], 2, "give the name of a method"),
        (["show", "nora"], 1, "unknown method 'nora'; expected one of adalora, autolora, ba_lora"),
        (["show", "bidor"], 1, "of your own; did you mean bidora"),
        (["nora"], 2, "invalid choice"),
    ],
)
def test_methods_refuses(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", *arguments]) == status
    assert message in capsys.readouterr().err


def test_only_listed_noise_is_hidden() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("`is_gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)
            warnings.warn("your data is odd", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["your data is odd"]


def test_a_warning_is_a_line_without_its_source() -> None:
    warning = (UserWarning("your data is odd"), UserWarning, "file.py", 7)
    with quiet():
        assert warnings.formatwarning(*warning) == "warning: your data is odd\n"
    assert warnings.formatwarning(*warning).startswith("file.py:7: UserWarning")
