"""Lines of text files, decoded one by one: a wrong byte makes its row bad and not the file."""

from __future__ import annotations

import codecs
import gzip
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rankwright.tasks.bad_rows import BadRow
from rankwright.tasks.errors import Where, shorten

NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""Bytes that are not UTF-8, as `surrogateescape` represents them."""


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends; bytes that are not UTF-8 become lone surrogates.

    Args:
        path: A text file, also `.gz`. With a byte order mark it may be UTF-16, as spreadsheet
            programs save "Unicode text".
    """
    opener: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as stream:
        mark = stream.read(2)
        stream.seek(0)
        if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            with io.TextIOWrapper(stream, "utf-16", "replace", newline="\n") as text:
                yield from text
            return
        for count, line in enumerate(stream, start=1):
            encoding = "utf-8-sig" if count == 1 else "utf-8"
            yield line.decode(encoding, "surrogateescape")


def undecoded(where: Where, text: str) -> BadRow | None:
    """Return a bad row if a byte of the text was not UTF-8, otherwise `None`."""
    wrong = NOT_UTF8.search(text)
    if wrong is None:
        return None
    place = len(text[: wrong.start()].encode()) + 1
    found = shorten(text.encode(errors="surrogateescape"))
    return BadRow(
        where,
        f"{where}: byte {place} of the line is not UTF-8: {found}. Save the file as UTF-8.",
    )
