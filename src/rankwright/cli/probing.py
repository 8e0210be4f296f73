"""`rankwright parts probe`: which parts work on which methods."""

from __future__ import annotations

import logging
from pathlib import Path

from rankwright.job.combinations import document, probe_all
from rankwright.job.load import write_atomically


def probe_parts(output: str | None) -> None:
    """Try all pairs; print the page, or write it to a file.

    Args:
        output: The file.

    Raises:
        BrokenError: A pair is neither refused nor does it work.
    """
    logging.getLogger("rankwright").setLevel(logging.ERROR)  # advice for runs of a sensible length
    page = document(probe_all())
    if output is None:
        print(page, end="")
    else:
        write_atomically(Path(output), page)
