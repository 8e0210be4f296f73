"""Write files completely or not at all, and read JSON."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankwright.errors import MethodError
from rankwright.locks import acquire, remove_unheld, unique_name


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Provide a temporary file that replaces `path`, flushed to disk, unless an error is raised.

    Temporary files of the same path that killed processes left behind are deleted.

    Args:
        path: The file; missing parent folders are created.

    Yields:
        The temporary file to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unheld(path.parent.glob(f".{glob.escape(path.name)}.*.saving"))
    lock = None
    while lock is None:  # another process may take it for a leftover before it is locked
        temporary = path.with_name(f".{path.name}.{unique_name()}.saving")
        lock = acquire(temporary)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        lock.release()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def explain_output(path: Path) -> Iterator[None]:
    """Turn a failed write into an error that asks for another `--output`.

    Raises:
        MethodError: A file could not be created or opened within the block.
    """
    try:
        yield
    except OSError as error:
        above = next((p for p in (path, *path.parents) if p.is_file()), None)
        reason = error.strerror if above is None else f"{above} is a file, not a folder"
        raise MethodError(f"cannot write to {path}: {reason}; choose another --output") from error


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises:
        MethodError: It is a folder, lies under a file, or its folder cannot be written to.
    """
    if path.is_dir():
        raise MethodError(f"cannot write to {path}: it is a folder; choose another --output")
    with explain_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON completely or not at all; see `json_text`."""
    write_text(path, json_text(value) + "\n")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the values by name in a JSON file.

    Raises:
        TypeError: The file holds something else.
    """
    values = json.loads(path.read_text("utf-8"))
    if not isinstance(values, dict):
        raise TypeError(f"values by name were expected, not {values!r:.60}")
    return values


def json_text(value: Any) -> str:
    """Return a value as indented JSON; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_without_nan(value), indent=1, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
