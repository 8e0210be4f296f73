"""A run says where its files are from the root, and finds them when all of it has moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from rankwright.cli import main
from rankwright.errors import MethodError
from rankwright.job import RunFolder, TrainConfig
from rankwright.job.model_names import MINILM, absolute_model
from rankwright.job.paths import absolute
from rankwright.job.relocation import absolute_task
from rankwright.job.tokenizers import load_tokenizer
from rankwright.study.planning.config import StudyConfig
from studies import carry_out

COLUMNS = ("--text-column", "sentence", "--label-column", "topic", "--validation-share", "0.2")


@pytest.fixture
def project(
    bert_folder: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a model and data, in which commands are given."""
    folder = tmp_path / "project"
    shutil.copytree(bert_folder, folder / "models" / "base")
    shutil.copy(rows_file, folder / "rows.jsonl")
    (folder / "task.yaml").write_text(
        "train: rows.jsonl\ntext_column: sentence\nlabel_column: topic\nvalidation_share: 0.2\n"
    )
    monkeypatch.chdir(folder)
    return folder


def train(*options: str) -> int:
    return main(["train", "--method", "lora", "--steps", "2", "--output", "runs/it", *options])


def test_relative_paths_are_written_from_the_root(project: Path) -> None:
    files = [f"--{name}-data=rows.jsonl" for name in ("validation", "test")]
    assert train("--model", "models/base", "--data", "./rows.jsonl", *COLUMNS, *files) == 0
    described = yaml.safe_load((project / "runs/it/run.yaml").read_text("utf-8"))
    assert described["model"] == str(project / "models" / "base")
    for name in ("data", "validation_data", "test_data"):
        assert described[name] == str(project / "rows.jsonl")
    config = json.loads((project / "runs/it/adapter/adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == described["model"]


@pytest.mark.parametrize("source", [["--data", "rows.jsonl", *COLUMNS], ["--task", "task.yaml"]])
def test_a_run_is_read_from_another_folder(
    project: Path, source: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("--model", "models/base", *source) == 0
    monkeypatch.chdir(tmp_path)
    for command in (["eval"], ["export", "--as", "merged"], ["plot"]):
        assert main([command[0], "project/runs/it", *command[1:]]) == 0


@pytest.mark.parametrize("source", [["--data", "rows.jsonl", *COLUMNS], ["--task", "task.yaml"]])
def test_a_run_that_moves_with_its_files_finds_them(
    project: Path, source: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("--model", "models/base", *source) == 0
    monkeypatch.chdir(tmp_path)
    project.rename(tmp_path / "elsewhere")
    run = tmp_path / "elsewhere" / "runs" / "it"
    assert main(["eval", str(run)]) == 0
    assert main(["export", str(run), "--as", "adapter"]) == 0
    base = str(tmp_path / "elsewhere" / "models" / "base")
    assert RunFolder.read(run).config.model == base
    exported = json.loads((run / "adapter-export/adapter_config.json").read_text("utf-8"))
    assert exported["base_model_name_or_path"] == base


def test_a_run_that_moves_alone_reads_its_files_where_they_are(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("--model", "models/base", "--data", "rows.jsonl", *COLUMNS) == 0
    (project / "runs" / "it").rename(tmp_path / "it")
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "it"]) == 0


def test_a_moved_run_is_resumed_and_can_be_moved_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("--model", "models/base", "--data", "rows.jsonl", *COLUMNS) == 0
    run = project / "runs" / "it"
    (run / "result.json").unlink()  # killed just before its end
    shutil.rmtree(run / "adapter")
    project.rename(tmp_path / "second")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "second/runs/it/run.yaml", "--resume"]) == 0
    assert main(["eval", "second/runs/it"]) == 0
    (tmp_path / "second").rename(tmp_path / "third")
    assert main(["eval", "third/runs/it"]) == 0


def test_a_base_that_is_gone_is_named_and_not_looked_for_on_the_hub(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--model", "models/base", "--data", "rows.jsonl", *COLUMNS) == 0
    shutil.rmtree(project / "models")
    capsys.readouterr()
    assert main(["eval", "runs/it"]) == 1
    said = capsys.readouterr().err
    assert str(project / "models" / "base") in said
    assert "there is no such folder" in said


def test_the_home_folder_is_meant_by_a_tilde(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project))
    config = TrainConfig(model="~/models/base", data="~/rows.jsonl", held_out_data="~/h.csv")
    assert config.model == str(project / "models" / "base")
    assert config.data == str(project / "rows.jsonl")
    assert config.held_out_data == str(project / "h.csv")
    assert absolute_task("~/task.yaml") == str(project / "task.yaml")
    options = ["--model=~/models/base", "--data=~/rows.jsonl", *COLUMNS, "--output=~/home-run"]
    assert main(["train", "--method", "lora", "--steps", "1", *options]) == 0
    assert main(["eval", "~/home-run"]) == 0


def test_names_stay_names(project: Path) -> None:
    (project / "stdlib-docs").touch()
    (project / "rte").touch()
    for name in ("stdlib-docs", "rte", "glue/rte", "owner/name", "nowhere.yaml"):
        assert absolute_task(name) == name
    for name in (MINILM, "bert-base-uncased", "owner/name", "models/nothing"):
        assert absolute_model(name) == name
    assert absolute_model("models/base") == str(project / "models" / "base")
    assert absolute_model("./nothing") == str(project / "nothing")
    assert absolute("${DATA}/rows.jsonl") == "${DATA}/rows.jsonl"
    assert absolute("~nobody-of-this-name/rows") == str(project / "~nobody-of-this-name/rows")
    assert absolute("models/../rows.jsonl") == str(project / "rows.jsonl")


def test_a_model_that_is_a_path_to_nothing_is_refused_as_such(project: Path) -> None:
    for name in ("./nothing", "../nothing", str(project / "nothing"), "a/b/c"):
        with pytest.raises(MethodError, match=r"(nothing|a/b/c)': there is no such folder"):
            load_tokenizer(name)
    for name in ("./rows.jsonl", "rows.jsonl"):
        with pytest.raises(MethodError, match=r"rows\.jsonl': is a file"):
            load_tokenizer(name)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
def test_a_model_without_its_tokenizer_is_refused(
    kind: str, left: tuple[str, ...], bert_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    """Of BERT transformers would make a tokenizer to which every word is unknown."""
    folder = shutil.copytree({"bert": bert_folder, "llama": llama_folder}[kind], tmp_path / kind)
    for name in {"tokenizer.json", "tokenizer_config.json"} - {*left}:
        (folder / name).unlink()
    with pytest.raises(MethodError, match=f"{kind}' comes without a tokenizer: expected tokenizer"):
        load_tokenizer(str(folder))


def test_the_runs_of_a_study_are_read_from_anywhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StudyConfig(
        methods="lora",
        task="task.yaml",
        model="models/base",
        seeds=1,
        budget="4-passes",
        output="studies/it",
        options={"batch_size": 4},
    )
    folder, _ = carry_out(config)
    (run,) = folder.study.runs
    monkeypatch.chdir(tmp_path)
    project.rename(tmp_path / "elsewhere")
    assert main(["eval", f"elsewhere/studies/it/runs/{run.name}"]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    _, processes = carry_out(config)  # the same command in the moved folder does nothing again
    assert processes.done == []
