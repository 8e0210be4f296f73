"""Paths as users write them, and the folder of a run that a file of options belongs to."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

DESCRIPTION = "run.yaml"
"""Name of the file in a run's folder that holds its options."""
_BESIDE = ("rankwright_manifest.json", "data.json")
"""One of these lies beside the description of a run; runs of version 0.1 have only the second."""
FILES = ("data", "validation_data", "test_data", "held_out_data")
"""Options that are always paths; `model` and `task` may be names."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` replaced, if there is such a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def absolute(path: str) -> str:
    """Return an absolute path with links kept; one with an environment variable stays as it is."""
    if "${" in path:
        return path
    full = expanded(path).absolute()
    return str(full.resolve() if ".." in full.parts else full)


def run_of(config: str | None) -> Path | None:
    """Return the folder of the run that a file of options describes.

    Args:
        config: The file; None for no file.

    Returns:
        None for a file that is not the description of a run.
    """
    file = expanded(config or "")
    is_run = file.name == DESCRIPTION and any(file.with_name(name).exists() for name in _BESIDE)
    return file.parent if is_run else None


def resume_command(folder: Path) -> str:
    """Return the command that continues the run in a folder."""
    return f"rankwright train --config {shlex.quote(str(folder / DESCRIPTION))} --resume"
