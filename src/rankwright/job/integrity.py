"""Compare the files of a finished run with the digests in its manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job.paths import resume_command
from rankwright.training.manifest import MANIFEST, ManifestError, check_files, load_manifest

RESULT = "result.json"
"""Name of the file that is written last, and marks a run as finished."""


def check_run(folder: Path) -> None:
    """Compare the files of a finished run with their digests; runs of version 0.1 have none.

    Raises:
        MethodError: A file is missing, or is not what the run wrote.
    """
    if not (folder / MANIFEST).exists():
        return
    with explain_edits():
        files = load_manifest(folder)["files"]
        if files and not (folder / RESULT).exists():  # killed just before it was written
            raise MethodError(
                f"{folder} lacks {RESULT}: the run is not finished. Continue it with: "
                f"{resume_command(folder)}"
            )
        check_files(folder, files)


def original_folder(folder: Path) -> Path | None:
    """Return the folder in which a run was first described; None if it was not recorded."""
    try:
        recorded = load_manifest(folder).get("folder")
    except (ManifestError, OSError):
        return None
    return Path(recorded) if isinstance(recorded, str) else None


@contextlib.contextmanager
def explain_edits() -> Iterator[None]:
    """Turn a difference from the manifest into an error that says what to do.

    Raises:
        MethodError: The comparison within the block found a difference.
    """
    try:
        yield
    except (ManifestError, OSError) as error:
        raise MethodError(
            f"{error}; expected the whole folder as `rankwright train` wrote it. Restore the file, "
            "or run it again; if the change was intended, use --edited (check=False in Python)"
        ) from error
