"""Checkpoints that are whole or do not count.

A checkpoint is written under a temporary name, every file is listed with size and SHA-256 in a
manifest, flushed to disk, and only then renamed. The newest one whose manifest holds is chosen;
an incomplete one is skipped with a warning.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from rankwright.errors import MethodError, TrainingError
from rankwright.training.manifest import (
    MANIFEST,
    ManifestError,
    check_files,
    file_entries,
    load_manifest,
    manifest_text,
)

_STATE_TENSORS = "rankwright_state.safetensors"
_STATE_VALUES = "rankwright_state.json"
_TENSOR, _NUMBER = "__tensor__", "__number__"
_STAGING = ".saving-"
_NAME = re.compile(r"^checkpoint-(\d+)$")


class IncompleteCheckpointWarning(UserWarning):
    """A checkpoint was skipped because it is damaged or was never finished."""


def write_manifest(folder: Path, **facts: Any) -> None:
    """List every file of `folder` with size in bytes and SHA-256, and flush all of it to disk.

    Args:
        folder: The checkpoint.
        facts: More that the manifest should say (step, method, ...); JSON values.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    for path in paths:
        _flush(path)
    manifest = folder / MANIFEST
    manifest.write_text(manifest_text(file_entries(folder, paths), **facts), encoding="utf-8")
    _flush(manifest)
    _flush(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete checkpoint.

    Raises:
        TrainingError: A file is missing or differs from what the manifest says.
    """
    if not (folder / MANIFEST).is_file():
        raise TrainingError(f"{folder} has no {MANIFEST}: it was never finished")
    try:
        content = load_manifest(folder)
        check_files(folder, content["files"])
    except ManifestError as error:
        raise TrainingError(str(error)) from error
    return content


def newest_complete(folder: Path, *, up_to: int | None = None) -> Path | None:
    """The complete `checkpoint-<step>` with the highest step; None if there is none.

    Args:
        folder: Where the checkpoints are.
        up_to: Highest step to consider; None for any.
    """
    for step, path in sorted(_named(folder), reverse=True):
        if up_to is not None and step > up_to:
            continue
        try:
            read_manifest(path)
        except (TrainingError, OSError) as error:
            warnings.warn(
                f"skipped checkpoint {path.name}: {error}",
                IncompleteCheckpointWarning,
                stacklevel=2,
            )
        else:
            return path
    return None


def check_names_free(folder: Path) -> None:
    """Refuse a plain file with the name of a checkpoint, which could not be written.

    Raises:
        TrainingError: There is one.
    """
    for _, path in sorted(_named(folder)):
        if not path.is_dir():
            raise TrainingError(
                f"{path} is a file, but checkpoints are folders with such names; move it away"
            )


@contextlib.contextmanager
def explain_read_errors(
    folder: Path, files: str = "", passing: type[Exception] = MethodError
) -> Iterator[None]:
    """Turn any error while reading a checkpoint into one message that names it.

    Args:
        folder: The checkpoint.
        files: The files that are read, for the message.
        passing: An error that is let through for the caller to handle.

    Raises:
        TrainingError: Reading failed.
    """
    try:
        yield
    except (MethodError, TrainingError, passing):
        raise
    except Exception as error:  # pickle, torch, safetensors and json each raise their own
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, UnpicklingError):  # torch's message advises to load it anyway
            problem = "expected only tensors and numbers, found other objects, which were not read"
        raise TrainingError(
            f"cannot go on from {folder}: {files or 'its state'}: {problem}. It is not what a run "
            "wrote; delete it to go on from the checkpoint before it, or start a new run"
        ) from (None if isinstance(error, UnpicklingError) else error)


def advise_on_writing(error: Exception) -> str:
    """Advice for a checkpoint that cannot be written."""
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
        return "Fix this, and resume"
    return "Is the disk full? Free some space, and resume"


def _named(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield step and path of every entry with the name of a checkpoint."""
    for path in folder.glob("*"):
        if match := _NAME.match(path.name):
            yield int(match[1]), path


@contextlib.contextmanager
def staging(folder: Path, step: int) -> Iterator[Path]:
    """A temporary folder beside the checkpoints; removed whatever happens."""
    temporary = folder / f"{_STAGING}{step}"
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """Rename `source` to `target` in one step; an older `target` is gone afterwards."""
    recover(target)
    replaced = None
    if target.exists():
        replaced = _replaced(target)
        target.rename(replaced)
    source.rename(target)
    _flush(target.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def recover(target: Path) -> None:
    """Restore or delete the older folder that a process set aside in `publish` before it died."""
    replaced = _replaced(target)
    if not replaced.exists():
        return
    if target.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(target)


def _replaced(target: Path) -> Path:
    return target.with_name(f"{_STAGING}old-{target.name}")


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half written."""
    for path in folder.glob(f"{_STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Write nested dicts of tensors and JSON values: tensors as safetensors, the rest as JSON."""
    tensors: dict[str, Tensor] = {}
    values = _split(state, "", tensors)
    text = json.dumps(values, indent=1, allow_nan=False)
    (folder / _STATE_VALUES).write_text(text + "\n", encoding="utf-8")
    if tensors:
        save_file(tensors, folder / _STATE_TENSORS)


def load_state(folder: Path) -> dict[str, Any]:
    """Undo of `save_state`."""
    values = json.loads((folder / _STATE_VALUES).read_text(encoding="utf-8"))
    tensors = folder / _STATE_TENSORS
    joined: dict[str, Any] = _join(values, load_file(tensors) if tensors.is_file() else {})
    return joined


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous()
        return {_TENSOR: path}
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no such number
        return {_NUMBER: str(value)}
    if isinstance(value, dict):
        return {key: _split(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        if set(value) == {_NUMBER}:
            return float(value[_NUMBER])
        return {key: _join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
