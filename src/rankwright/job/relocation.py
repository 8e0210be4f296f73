"""Options that are paths: made absolute in a description, found again when a run moves."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rankwright.job.model_names import absolute_model
from rankwright.job.paths import FILES, absolute, expanded


def absolute_task(name: str) -> str:
    """Return the absolute path of a task named by a file, and any other name as it is."""
    is_path = Path(name).suffix and expanded(name).is_file()
    return absolute(name) if is_path else name


def absolute_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are paths, made absolute; the others are left out."""
    changes: dict[str, Callable[[str], str]] = {"model": absolute_model, "task": absolute_task}
    changes |= dict.fromkeys(FILES, absolute)
    return {
        name: _apply(change, options[name]) for name, change in changes.items() if options.get(name)
    }


def relocate(options: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """Return the options with the paths of files that moved together with the run's folder.

    Only paths that no longer exist are changed, to the same place relative to the folder, and only
    if a file is there.

    Args:
        options: Options by name.
        old: Absolute path of the folder when the options were written.
        new: Its path now.
    """

    def find(path: str) -> str:
        if not Path(path).is_absolute() or Path(path).exists():
            return path
        moved = (new / os.path.relpath(path, old)).resolve()
        return str(moved) if moved.exists() else path

    names = [name for name in ("model", "task", *FILES) if options.get(name)]
    return {**options, **{name: _apply(find, options[name]) for name in names}}


def _apply(change: Callable[[str], str], value: Any) -> Any:
    """Change a text, or every text in a list."""
    if isinstance(value, str):
        return change(value)
    return [_apply(change, item) for item in value] if isinstance(value, list) else value
