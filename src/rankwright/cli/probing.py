"""`rankwright parts probe`: try which parts work on which methods."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from rankwright.job.combinations import probe_all
from rankwright.job.combinations_page import render_page
from rankwright.job.files import write_text
from rankwright.job.paths import expanded


def probe_parts(output: str | None) -> None:
    """Try all pairs; print the page, or write it to a file.

    Args:
        output: The file; None to print the page.

    Raises:
        BrokenError: A pair is neither refused nor does it work.
    """
    with _without_warnings():
        page = render_page(probe_all())
    if output is None:
        print(page, end="")
    else:
        write_text(expanded(output), page)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide warnings about runs that are too short."""
    logger = logging.getLogger("rankwright")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
