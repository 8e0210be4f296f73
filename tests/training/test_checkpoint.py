"""A checkpoint is whole or does not count."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rankwright.errors import TrainingError
from rankwright.training import checkpoint
from rankwright.training.checkpoint import MANIFEST, IncompleteCheckpointWarning


def written(folder: Path, step: int) -> Path:
    """A complete checkpoint with two files, one of them in a folder."""
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "weights").write_bytes(bytes(range(200)))
    (path / "inner" / "state").write_text(f"step {step}")
    checkpoint.write_manifest(path, step=step, method={"name": "lora"})
    return path


def truncate(path: Path) -> None:
    (path / "weights").write_bytes((path / "weights").read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "weights").read_bytes())
    content[100] ^= 1
    (path / "weights").write_bytes(content)


def lose_a_file(path: Path) -> None:
    (path / "inner" / "state").unlink()


def lose_the_manifest(path: Path) -> None:
    (path / MANIFEST).unlink()


def tear_the_manifest(path: Path) -> None:
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text[: len(text) // 2])


def empty_the_manifest(path: Path) -> None:
    (path / MANIFEST).write_text("{}")


DAMAGES = [
    (truncate, "weights is not what was written"),
    (flip_a_bit, "weights is not what was written"),
    (lose_a_file, "lacks inner/state"),
    (lose_the_manifest, "it was never finished"),
    (tear_the_manifest, "skipped checkpoint checkpoint-20"),
    (empty_the_manifest, "skipped checkpoint checkpoint-20"),
]


def test_the_manifest_names_every_file_and_the_facts(tmp_path: Path) -> None:
    content = checkpoint.read_manifest(written(tmp_path, 10))
    assert (content["step"], content["method"]) == (10, {"name": "lora"})
    assert set(content["files"]) == {"weights", "inner/state"}
    assert content["files"]["weights"]["bytes"] == 200


def test_newest_is_by_step_not_by_name_or_time(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        written(tmp_path, step)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-900.old").mkdir()
    assert checkpoint.newest_complete(tmp_path) == tmp_path / "checkpoint-100"
    assert checkpoint.newest_complete(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[d.__name__ for d, _ in DAMAGES])
def test_a_damaged_one_is_skipped_with_a_warning(damage: Any, message: str, tmp_path: Path) -> None:
    older = written(tmp_path, 10)
    damage(written(tmp_path, 20))
    with pytest.warns(IncompleteCheckpointWarning, match=message):
        assert checkpoint.newest_complete(tmp_path) == older


def test_a_damaged_one_is_refused_when_it_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, 10)
    truncate(path)
    with pytest.raises(TrainingError, match="size or checksum differs"):
        checkpoint.read_manifest(path)


def test_publishing_replaces_what_is_there(tmp_path: Path) -> None:
    target = written(tmp_path, 10)
    with checkpoint.staging(tmp_path, 10) as temporary:
        source = written(temporary, 10)
        (source / "weights").write_bytes(b"new")
        checkpoint.write_manifest(source, step=10)
        checkpoint.publish(source, target)
    assert (target / "weights").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_staging_leaves_nothing_behind_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with checkpoint.staging(tmp_path, 10) as temporary:
            written(temporary, 10)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = written(tmp_path, 10)
    written(tmp_path / ".saving-20", 20)
    assert checkpoint.newest_complete(tmp_path) == kept
    checkpoint.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_every_file_is_flushed_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file is flushed")
    monkeypatch.setattr(os, "fsync", note)
    path = written(tmp_path, 10)
    names = [str(path / name) for name in ("inner/state", "weights", MANIFEST)]
    assert sorted(flushed[:2]) == names[:2]
    assert flushed[2] == names[2]


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "round": 3,
        "name": "x",
        "none": None,
        "selected": ["a", "b"],
        "empty": {},
        "tensors": {"a.b/c": torch.arange(6.0).view(2, 3).T, "half": torch.ones(2).bfloat16()},
        "nested": [1.5, {"t": torch.tensor(True)}, [torch.zeros(0, 4)]],
    }
    checkpoint.save_state(state, tmp_path)
    found = checkpoint.load_state(tmp_path)
    assert json.dumps(strip(found)) == json.dumps(strip(state))
    for tensor, expected in zip(tensors(found), tensors(state), strict=True):
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    state = {"values": [0.1, 1 / 3, 1e-300, 2.0**60]}
    checkpoint.save_state(state, tmp_path)
    assert checkpoint.load_state(tmp_path) == state


def test_numbers_that_json_does_not_have_come_back_too(tmp_path: Path) -> None:
    state = {"best": float("-inf"), "losses": [float("inf"), 1.0]}
    checkpoint.save_state(state, tmp_path)
    assert checkpoint.load_state(tmp_path) == state
    (file,) = tmp_path.iterdir()
    json.loads(file.read_text("utf-8"), parse_constant=pytest.fail)


def test_a_state_without_tensors_leaves_no_tensor_file(tmp_path: Path) -> None:
    checkpoint.save_state({"a": 1}, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def strip(value: Any) -> Any:
    """The state with every tensor replaced by its shape."""
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    if isinstance(value, dict):
        return {key: strip(item) for key, item in value.items()}
    return [strip(item) for item in value] if isinstance(value, list) else value


def tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor of the state in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, list) else []
