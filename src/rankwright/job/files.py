"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankwright.core.locks import acquire, remove_unheld, unique_name


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path`, flushed to disk, if nothing is raised.

    What a process that was killed has left of the same file is deleted.

    Args:
        path: The file; folders on the way to it are made.

    Yields:
        Where to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unheld(path.parent.glob(f".{glob.escape(path.name)}.*.saving"))
    lock = None
    while lock is None:  # until nobody takes it for a leftover before it is held
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
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; see `json_text`."""
    write_text(path, json_text(value) + "\n")


def json_text(value: Any) -> str:
    """A value as indented JSON; NaN and infinity, which JSON does not have, are null."""
    return json.dumps(_nulled(value), indent=1, allow_nan=False)


def _nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
