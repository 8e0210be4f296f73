"""Whatever lies in a run folder in the place of a file, a command says so in one message."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rankwright.cli import main
from rankwright.training.checkpoint import (
    IncompleteCheckpointWarning,
    advise_on_writing,
    write_manifest,
)
from rankwright.training.manifest import MANIFEST, load_manifest

READING = (["export", "--as", "merged"], ["plot"])  # eval reads what export does, and the data
CHECKPOINTS = shutil.ignore_patterns("checkpoints")
UNSEEN = {(MANIFEST, "gone")}
"""A file and a damage that cannot be told from a run of version 0.1."""
HARMLESS = {
    ("data.json", "gone"),  # a study's start has none
    (MANIFEST, "a folder"),
    ("optimizer.pt", "gone"),
    ("scheduler.pt", "gone"),
    ("rng_state.pth", "gone"),
    ("optimizer.pt", "a folder"),
    ("scheduler.pt", "a folder"),
    ("rng_state.pth", "a folder"),
}


def replaced_by(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "[]": replaced_by(b"[]"),
    "null": replaced_by(b"null"),
    "{}": replaced_by(b"{}"),
    "[null]": replaced_by(b"[null]"),
    "empty": replaced_by(b""),
    "binary": replaced_by(bytes(range(128, 256))),
    "truncated": truncated,
    "gone": Path.unlink,
    "a folder": a_folder,
}


@pytest.fixture(scope="module")
def finished(bert_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of LoRA with checkpoints of the steps 2, 3 and 4."""
    folder = tmp_path_factory.mktemp("finished") / "lora"
    options = ["--text-column", "sentence", "--label-column", "topic", "--validation-share", "0.2"]
    names = ["--model", str(bert_folder), "--data", str(rows_file), "--output", str(folder)]
    short = ["--steps", "4", "--save-steps", "1", "--keep-checkpoints", "3"]
    assert main(["train", "--method", "lora", *names, *options, *short]) == 0
    return folder


@pytest.fixture(scope="module")
def killed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, killed before it wrote its adapter; it has checkpoints of the steps 2 and 3."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("killed") / "lora")
    for name in ("result.json", "history.json", "head.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    return folder


def forge(checkpoint: Path) -> None:
    """Write the digests of a checkpoint anew."""
    facts = load_manifest(checkpoint)
    del facts["files"]
    write_manifest(checkpoint, **facts)


class Forged:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


def texts(folder: Path) -> Iterator[str]:
    """Every JSON and YAML file of a folder, checkpoints left out."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        outside = "checkpoint" not in name or name.endswith("seconds.json")
        if path.suffix in (".json", ".yaml") and outside:
            yield name


def one_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said by a command that fails; nothing where it succeeds."""
    capsys.readouterr()
    status = main(arguments)
    said = capsys.readouterr().err
    assert status in (0, 1, 2), said
    messages = [line for line in said.splitlines() if line.startswith("rankwright ")]
    assert len(messages) == status, said  # with status 2 one line more says where the options are
    assert "Traceback" not in said
    return "" if status == 0 else messages[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_run(
    finished: Path, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its digests a damaged file is always named; without them where it is read."""
    for name in (name for name in texts(finished) if not name.startswith("checkpoints")):
        run = shutil.copytree(finished, tmp_path / name.replace("/", "-"), ignore=CHECKPOINTS)
        DAMAGES[damage](run / name)
        said = one_message(["plot", str(run)], capsys)  # all commands check the digests alike
        assert name in said or (name, damage) in UNSEEN
        if name != MANIFEST:
            (run / MANIFEST).unlink()
            for command, *options in READING:
                one_message([command, str(run), *options], capsys)


@pytest.mark.parametrize(
    "text",
    [
        '{"auto_class": 3, "model_kwargs": {}}',
        '{"auto_class": "AutoModel", "model_kwargs": []}',
        '{"auto_class": "os", "model_kwargs": {}}',
        '{"auto_class": "AutoModel", "model_kwargs": {"id2label": 3}}',
        '{"auto_class": "AutoModel", "model_kwargs": {"id2label": {"x": "y"}}}',
        '{"auto_class": "AutoModel", "model_kwargs": {"label2id": 3}}',
    ],
)
def test_a_head_of_another_shape(
    finished: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run", ignore=CHECKPOINTS)
    (run / "head.json").write_text(text)
    for command in ("eval", "export"):
        options = ["--as", "adapter"] if command == "export" else []
        assert one_message([command, str(run), *options, "--edited"], capsys)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task": None}, "it lacks task"),
        ({"cost": 3}, "values by name were expected, not 3"),
        ({"cost": {}}, "it lacks trainable_parameters"),
        ({"before": [1]}, "values by name were expected, not [1]"),
    ],
)
def test_a_result_of_another_shape(
    finished: Path,
    change: dict[str, object],
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(finished, tmp_path / "run", ignore=CHECKPOINTS)
    result = json.loads((run / "result.json").read_text()) | change
    kept = {name: value for name, value in result.items() if value is not None}
    (run / "result.json").write_text(json.dumps(kept))
    for command, *options in (["export", "--as", "adapter"], ["plot"]):
        said = one_message([command, str(run), *options, "--edited"], capsys)
        assert f"cannot read {run / 'result.json'}: {problem}" in said
    assert not (run / "adapter-export").exists()


@pytest.mark.parametrize("text", ['{"train": 3}', '{"train": {}}', '{"train": null}', "[]"])
def test_rows_of_another_shape(
    killed: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(killed, tmp_path / "run")
    (run / "data.json").write_text(text)
    said = one_message(["train", "--config", str(run / "run.yaml"), "--resume"], capsys)
    expected = "values by name" if text == "[]" else "rows and their digest"
    assert f"cannot read {run / 'data.json'}: {expected}" in said


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unfinished_run_is_resumed_or_refused_with_a_reason(
    killed: Path, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in texts(killed):
        run = shutil.copytree(killed, tmp_path / name.replace("/", "-"))
        DAMAGES[damage](run / name)
        said = one_message(["train", "--config", str(run / "run.yaml"), "--resume"], capsys)
        if name in ("run.yaml", "data.json"):
            assert said or (name, damage) in HARMLESS
        elif (name, damage) not in HARMLESS:
            assert said == ""
        one_message(["plot", str(run)], capsys)


@pytest.mark.parametrize("damage", ["[]", "{}", "empty", "binary", "gone", "a folder"])
def test_a_damaged_checkpoint_is_skipped(
    killed: Path, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The older one, which is whole, is taken."""
    for name in (MANIFEST, "trainer_state.json", "optimizer.pt", "adapter_config.json"):
        run = shutil.copytree(killed, tmp_path / name)
        DAMAGES[damage](run / "checkpoints" / "checkpoint-3" / name)
        with pytest.warns(IncompleteCheckpointWarning, match="skipped checkpoint checkpoint-3"):
            assert main(["train", "--config", str(run / "run.yaml"), "--resume"]) == 0
        said = capsys.readouterr().err
        assert f"resuming from {run / 'checkpoints' / 'checkpoint-2'}" in said


@pytest.mark.parametrize("damage", ["[]", "null", "{}", "empty", "binary", "gone", "a folder"])
@pytest.mark.parametrize(
    "name",
    [
        "trainer_state.json",
        "rankwright_state.json",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "adapter_model.safetensors",
    ],
)
def test_a_forged_checkpoint_is_named(
    killed: Path, name: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its digests fit, and its files are of another shape."""
    run = shutil.copytree(killed, tmp_path / "run")
    checkpoint = run / "checkpoints" / "checkpoint-3"
    DAMAGES[damage](checkpoint / name)
    forge(checkpoint)
    said = one_message(["train", "--config", str(run / "run.yaml"), "--resume"], capsys)
    if (name, damage) not in HARMLESS:
        assert f"cannot go on from {checkpoint}" in said
        assert "delete it to go on from the checkpoint before it" in said
    one_message(["plot", str(run)], capsys)


@pytest.mark.parametrize("facts", [{}, {"method": []}, {"method": None, "optimizer": 3}])
def test_a_forged_manifest_is_named(
    killed: Path, facts: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(killed, tmp_path / "run")
    write_manifest(run / "checkpoints" / "checkpoint-3", **facts)
    said = one_message(["train", "--config", str(run / "run.yaml"), "--resume"], capsys)
    assert str(run / "checkpoints" / "checkpoint-3") in said


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_code_in_a_checkpoint_is_not_run_and_nobody_is_advised_to(
    killed: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(killed, tmp_path / "run")
    checkpoint = run / "checkpoints" / "checkpoint-3"
    torch.save({"state": Forged(tmp_path / "was-run")}, checkpoint / name)
    forge(checkpoint)
    said = one_message(["train", "--config", str(run / "run.yaml"), "--resume"], capsys)
    assert "expected only tensors and numbers" in said
    assert "weights_only" not in said
    assert not (tmp_path / "was-run").exists()


def test_a_clock_that_stands_still_stops_no_run(
    killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, text in enumerate(
        ("", "[]", "{}", "null", '{"seconds": null}', '{"seconds": NaN}')
    ):
        run = shutil.copytree(killed, tmp_path / str(number))
        (run / "checkpoints" / "seconds.json").write_text(text)
        assert main(["train", "--config", str(run / "run.yaml"), "--resume"]) == 0
        result = json.loads((run / "result.json").read_text("utf-8"))
        assert 0 < result["seconds"] < 100


def test_a_file_in_the_place_of_a_checkpoint_is_refused_before_training(
    killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(killed, tmp_path / "run")
    (run / "checkpoints" / "checkpoint-9").write_text("a note")
    said = one_message(["train", "--config", str(run / "run.yaml"), "--resume"], capsys)
    assert "checkpoint-9 is a file, but checkpoints are folders" in said
    assert "disk" not in said


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("PytorchStreamWriter failed writing file"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), False),
    ],
)
def test_a_full_disk_is_suspected_only_where_it_may_be_one(error: Exception, full: bool) -> None:
    assert ("disk full" in advise_on_writing(error)) == full
