"""A run in the place of another: nothing is lost before the new one is finished."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from rankwright.cli.quiet import quiet
from rankwright.errors import MethodError
from rankwright.job import RunFolder, TrainConfig, train
from rankwright.job.lock import FolderLock
from rankwright.job.overwrite import REPLACED
from rankwright.methods import DoRA, LoRA
from rankwright.tasks import TaskError
from saved_models import adapter_bytes


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, steps=2, save_steps=1)


class _Crash(TrainerCallback):
    """Ends the run in its second step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            raise KeyboardInterrupt


def crashed(config: TrainConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config, DoRA(r=2), overwrite=True, callback=lambda _trainer: _Crash())


def test_the_new_run_equals_one_in_an_empty_folder(config: TrainConfig, tmp_path: Path) -> None:
    folder, _ = train(config, LoRA(r=2))
    (folder.path / "notes.txt").write_text("mine", "utf-8")
    (folder.path / "lora-export").mkdir()
    said: list[str] = []
    replaced, _ = train(config, DoRA(r=2), overwrite=True, notify=said.append)
    assert f"the run that was in {folder.path} is in {folder.path / REPLACED}" in " ".join(said)
    elsewhere, _ = train(dataclasses.replace(config, output=str(tmp_path / "new")), DoRA(r=2))
    assert adapter_bytes(replaced.path) == adapter_bytes(elsewhere.path)
    names = {path.name for path in elsewhere.path.iterdir()}
    assert {path.name for path in replaced.path.iterdir()} == names | {"notes.txt"}
    assert RunFolder.read(folder.path).method == DoRA(r=2)


def test_the_old_run_is_kept_until_the_new_one_is_finished(config: TrainConfig) -> None:
    """Over a crash, another start, and going on."""
    folder, _ = train(config, LoRA(r=2))
    kept = adapter_bytes(folder.path)
    old = folder.path / REPLACED
    crashed(config)
    assert adapter_bytes(old) == kept
    RunFolder.read(old)  # whole, as its digests say
    crashed(config)
    assert adapter_bytes(old) == kept
    train(config, DoRA(r=2), resume=True)
    assert not old.exists()
    assert RunFolder.read(folder.path).method == DoRA(r=2)


def test_a_refused_run_leaves_the_old_one_in_place(config: TrainConfig) -> None:
    folder, _ = train(config, LoRA(r=2))
    before = sorted(folder.path.rglob("*"))
    for changes, error in (
        ({"text_column": "nope"}, TaskError),
        ({"model": "nowhere/at/all"}, MethodError),
        ({"schedule": "no_such"}, MethodError),
        ({"train_rows": 10**6}, MethodError),
    ):
        with pytest.raises(error):
            train(dataclasses.replace(config, **changes), LoRA(r=2), overwrite=True)
    holds = FolderLock(folder.path)
    with pytest.raises(MethodError, match="another process is training into"):
        train(config, LoRA(r=2), overwrite=True)
    holds.release()
    assert sorted(folder.path.rglob("*")) == before


def test_a_folder_without_a_run_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    """A home folder, say, after a slip in --output; and a run without its description."""
    for name in ("photos", "run"):
        path = tmp_path / name
        if name == "run":
            path = train(config, LoRA(r=2))[0].path
            (path / "run.yaml").unlink()
        else:
            path.mkdir()
            (path / "photo.jpg").write_bytes(b"x")
        there = sorted(path.rglob("*"))
        with pytest.raises(MethodError, match=r"--overwrite replaces a run, and .* holds no run"):
            train(dataclasses.replace(config, output=str(path)), LoRA(r=2), overwrite=True)
        assert sorted(path.rglob("*")) == there


def test_an_empty_folder_and_none_are_as_without_the_option(config: TrainConfig) -> None:
    for there in (False, True):
        path = Path(f"{config.output}-{there}")
        if there:
            path.mkdir()
        said: list[str] = []
        changed = dataclasses.replace(config, output=str(path))
        folder, _ = train(changed, LoRA(r=2), overwrite=True, notify=said.append)
        assert folder.result.exists()
        assert not any(REPLACED in text for text in said)


def test_a_run_that_was_killed_while_it_was_moved(config: TrainConfig) -> None:
    """Some files are in the folder that is to become the replaced run; no file is lost."""
    folder, _ = train(config, LoRA(r=2))
    kept = adapter_bytes(folder.path)
    (folder.path / ".replacing").mkdir()
    shutil.move(folder.adapter, folder.path / ".replacing" / "adapter")
    crashed(config)
    assert adapter_bytes(folder.path / REPLACED) == kept
    RunFolder.read(folder.path / REPLACED)


def test_going_on_and_replacing_exclude_each_other(config: TrainConfig) -> None:
    with pytest.raises(MethodError, match="resume and overwrite"):
        train(config, LoRA(r=2), resume=True, overwrite=True)
