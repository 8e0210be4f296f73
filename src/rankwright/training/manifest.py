"""Sizes and SHA-256 digests of the files in a folder, to find and name one that has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "rankwright_manifest.json"

Files = dict[str, dict[str, Any]]
"""Path relative to the folder, with forward slashes -> `{"bytes": 12, "sha256": "..."}`."""


class ManifestError(ValueError):
    """A manifest cannot be read, or a file does not match it."""


def file_entries(folder: Path, paths: Iterable[Path]) -> Files:
    """Sizes in bytes and digests of some files of a folder, sorted by path."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(paths)
    }


def text_entry(text: str) -> dict[str, Any]:
    """Size and digest of a text written as UTF-8."""
    data = text.encode("utf-8")
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def manifest_text(files: Files, **facts: Any) -> str:
    """A manifest as JSON text, with `facts` before the files."""
    return json.dumps({**facts, "files": files}, indent=1, allow_nan=False) + "\n"


def load_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder without reading the files that it lists.

    Raises:
        ManifestError: The file is not a manifest.
        OSError: It cannot be read.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of bytes that are not UTF-8, too
        raise ManifestError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not _are_files(content.get("files")):
        raise ManifestError(f"{path} does not list files with their sizes and checksums")
    return content


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare every listed file with its size and digest.

    Raises:
        ManifestError: A file is missing, or its size or digest differs.
        OSError: A file cannot be read.
    """
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ManifestError(f"{folder} lacks {name}")
        if path.stat().st_size != expected["bytes"] or _digest(path) != expected["sha256"]:
            raise ManifestError(f"{path} is not what was written: size or checksum differs")


def _are_files(files: object) -> bool:
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and entry.keys() >= {"bytes", "sha256"} for entry in files.values()
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
