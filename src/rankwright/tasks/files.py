"""Rows out of JSON lines, CSV and parquet files, each with the exact line it starts at.

The text formats are read by the standard library line by line, because the readers of `pandas`
and `datasets` do not say on which line of the file a row that they reject stands.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rankwright.tasks.bad_rows import BadRow, BadRows
from rankwright.tasks.errors import TaskError, Where, shorten
from rankwright.tasks.rows import Row

LONGEST_CELL = 2**31 - 1  # characters; the csv module's own limit is 131,072
NOT_UTF8 = re.compile("[\udc80-\udcff]")
"""Bytes that do not decode, as Python's `surrogateescape` keeps them."""


def read_rows(path: str | Path) -> list[Row]:
    """Reads every row of a data file; see `parsed_rows`.

    Raises:
        TaskError: If the file cannot be read, or rows of it do not parse.
    """
    bad = BadRows()
    rows = bad.sift(parsed_rows(path))
    bad.refuse()
    return rows


def parsed_rows(path: str | Path) -> list[Row | BadRow]:
    """Reads every row of a data file, also those that do not parse.

    Args:
        path: A `.jsonl`, `.csv` or `.parquet` file; the first two may also be `.gz`. Text is UTF-8.
            Blank lines are skipped. A CSV file starts with a header.

    Raises:
        TaskError: If the file is missing, unreadable, of an unknown extension or without rows.
    """
    path = Path(path)
    reader = READERS.get(extension(path))
    if reader is None:
        raise TaskError(
            f"{path}: unknown extension {extension(path)!r}; expected one of "
            f"{', '.join(READERS)}. Convert or rename the file."
        )
    if not path.is_file():
        raise TaskError(f"{path}: no such file. Check the path; it is relative to {Path.cwd()}.")
    try:
        rows = list(reader(path))
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise TaskError(f"{path}: cannot be read ({error}). Is the file complete?") from error
    if not rows:
        raise TaskError(f"{path}: the file has no rows; expected at least one.")
    return rows


def extension(path: Path) -> str:
    """Returns the lower-case extension that decides the format, `.gz` included."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(suffixes if suffixes[-1:] == [".gz"] else suffixes[-1:])


def _lines(path: Path) -> Iterator[str]:
    """Yields the decoded lines of a file, line ends included; wrong bytes as half characters."""
    opener: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as stream:
        for count, line in enumerate(stream, start=1):
            # A byte order mark is what spreadsheet programs put first.
            encoding = "utf-8-sig" if count == 1 else "utf-8"
            yield line.decode(encoding, "surrogateescape")


def _undecoded(where: Where, text: str) -> BadRow | None:
    """The row as a bad one, if a byte of it was not UTF-8."""
    wrong = NOT_UTF8.search(text)
    if wrong is None:
        return None
    place = len(text[: wrong.start()].encode()) + 1
    return BadRow(
        where,
        f"{where}: byte {place} of the line is not UTF-8: "
        f"{shorten(text.encode(errors='surrogateescape'))}. Save the file as UTF-8.",
    )


def _read_jsonl(path: Path) -> Iterator[Row | BadRow]:
    for count, line in enumerate(_lines(path), start=1):
        if line.strip():
            where = Where(str(path), count)
            yield _undecoded(where, line) or _json_row(where, line)


def _json_row(where: Where, line: str) -> Row | BadRow:
    try:
        fields = json.loads(line, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # thousands of digits or of brackets, too
        problem = str(error)
        if isinstance(error, json.JSONDecodeError):
            problem = f"{error.msg}, column {error.colno}"
        return BadRow(
            where,
            f"{where}: the row does not parse as JSON ({problem}): {shorten(line.strip())}. "
            "Write one complete JSON object per line.",
        )
    if not isinstance(fields, dict):
        return BadRow(
            where,
            f"{where}: the row is {shorten(fields)}; expected a JSON object with the "
            'columns as keys, such as {"text": "...", "label": 1}.',
        )
    return Row(where, fields)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there more than once")
    return fields


def _read_csv(path: Path) -> Iterator[Row | BadRow]:
    limit = csv.field_size_limit(LONGEST_CELL)  # of the process; a whole document may be a cell
    try:
        yield from _csv_rows(path)
    finally:
        csv.field_size_limit(limit)


def _csv_rows(path: Path) -> Iterator[Row | BadRow]:
    reader = csv.reader(_lines(path), strict=True)
    header: list[str] = []
    while True:
        where = Where(str(path), reader.line_num + 1)  # a quoted cell may span several lines
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(
                where,
                f"{where}: the row does not parse as CSV ({error}). "
                "Quote cells that hold commas, quotes or line breaks.",
            )
            continue
        if not header:
            header = _checked_header(where, cells) if cells else []
        elif cells:
            yield _csv_row(where, header, cells)


def _csv_row(where: Where, header: list[str], cells: list[str]) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(
            where,
            f"{where}: the row has {len(cells)} cells ({shorten(cells)}); expected "
            f"{len(header)}, as in the header. Quote cells that hold commas.",
        )
    undecoded = _undecoded(where, ",".join(cells))
    return undecoded or Row(where, dict(zip(header, cells, strict=True)))


def _checked_header(where: Where, cells: list[str]) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise TaskError(
            f"{where}: the header names the column {twice[0]!r} more than once. Rename one of them."
        )
    return cells


def _read_parquet(path: Path) -> Iterator[Row]:
    for count, fields in enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1):
        yield Row(Where(str(path), count, "row"), fields)


READERS: dict[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".parquet": _read_parquet,
}
