"""Rows from files of delimited cells, such as CSV and TSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rankwright.tasks.bad_rows import BadRow, Note
from rankwright.tasks.errors import TaskError, Where, listing, shorten
from rankwright.tasks.lines import undecoded
from rankwright.tasks.rows import Row

LONGEST_CELL = 2**31 - 1  # characters; the csv module's own limit is 131,072
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
LOOKED_AT = 50
"""Number of rows that decide between several delimiters that fit the header."""
SPACED_QUOTE = re.compile(' +"')

Line = tuple[Where, "list[str] | BadRow"]


@dataclass(frozen=True)
class Dialect:
    """How the cells of a file are written.

    Attributes:
        delimiter: The character between two cells.
        quoted: Whether quotes enclose cells; otherwise they are text.
        spaced: Whether spaces before a cell are dropped.
    """

    delimiter: str
    quoted: bool = True
    spaced: bool = False

    def reader(self, every: list[str]) -> Any:
        """Return the standard library's reader of these lines."""
        return csv.reader(
            every,
            strict=True,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            skipinitialspace=self.spaced,
        )

    @property
    def name(self) -> str:
        """The delimiter in words."""
        return DELIMITERS.get(self.delimiter, repr(self.delimiter))


def parse_delimiter(text: str) -> str:
    """Return the character that the option `delimiter` means: a character, or `tab`.

    Raises:
        TaskError: If it is not one character.
    """
    character = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(character) != 1 or character in '"\r\n ':
        raise TaskError(
            f"delimiter={text!r}: expected one character, the separator of cells, or tab."
        )
    return character


def csv_rows(
    path: Path, lines: Iterable[str], *, delimiter: str | None = None, usual: str = ","
) -> Iterator[Row | BadRow | Note]:
    """Read a file with a header; a row is one line, or several lines within quotes.

    Args:
        path: The file.
        lines: Its lines.
        delimiter: The delimiter; `None` to infer it from the header.
        usual: The usual delimiter for the extension of the file.

    Raises:
        TaskError: If several characters may be the delimiter, or two columns have the same name.
    """
    every = _split_old_mac(list(lines))
    with _long_cells():
        start = Dialect(delimiter or _infer_delimiter(path, every, usual))
        dialect, parsed = _parsed(path, every, start)
    yield from _notes(path, dialect, usual if delimiter is None else delimiter)
    parsed = [(where, cells) for where, cells in parsed if cells]
    if not parsed:
        return
    where, cells = parsed[0]
    if isinstance(cells, BadRow):
        raise TaskError(cells.problem)
    header = _checked_header(where, cells)
    if "" in header:
        yield Note(f"{path}: columns without a name are left out")
    for where, cells in parsed[1:]:
        yield cells if isinstance(cells, BadRow) else _row(where, dialect, header, cells)


def _split_old_mac(every: list[str]) -> list[str]:
    """Split a single line at carriage returns, which ended lines on old Macs."""
    return re.findall(r"[^\r]*\r\n?|[^\r]+", every[0]) if len(every) == 1 else every


@contextmanager
def _long_cells() -> Iterator[None]:
    """Raise the limit of the csv module, which holds for the process; a cell may be a document."""
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _infer_delimiter(path: Path, every: list[str], usual: str) -> str:
    """Return the delimiter in the header; the usual one if the header has none."""
    head = [line for line in every[:LOOKED_AT] if line.strip()][:1]
    able = [delimiter for delimiter in DELIMITERS if _width(delimiter, head) > 1]
    if len(able) < 2:
        return able[0] if able else usual
    fitting = [delimiter for delimiter in able if _fits(delimiter, every)] or able
    if len(fitting) > 1:
        names = listing(DELIMITERS[delimiter] for delimiter in fitting)
        raise TaskError(
            f"{Where(str(path), 1)}: the header is {shorten(head[0].strip())}, and cells may be "
            f"separated by {names}. Say by which: --delimiter (delimiter in Python and YAML)."
        )
    return fitting[0]


def _width(delimiter: str, head: list[str]) -> int:
    try:
        return max(map(len, Dialect(delimiter).reader(head)), default=0)
    except csv.Error:
        return 0


def _fits(delimiter: str, every: list[str]) -> bool:
    """Whether the first rows all have as many cells as the header."""
    try:
        rows = islice(filter(None, Dialect(delimiter).reader(every)), LOOKED_AT)
        return len(set(map(len, rows))) == 1
    except csv.Error:
        return False


def _parsed(path: Path, every: list[str], start: Dialect) -> tuple[Dialect, list[Line]]:
    """Parse the lines; detects spaces before quotes, and unquoted files with tabs."""
    parsed = list(_lines(path, every, start))
    cells = (cell for _, row in parsed if isinstance(row, list) for cell in row)
    if any(SPACED_QUOTE.match(cell) for cell in cells):
        start = replace(start, spaced=True)
        parsed = list(_lines(path, every, start))
    if start.delimiter == "\t" and any('"' in line for line in every):
        # Programs that write tabs often quote nothing. A quote that opens a cell then swallows
        # lines up to the next one.
        literal = replace(start, quoted=False)
        as_text = list(_lines(path, every, literal))
        if _is_table(as_text) and not (_is_table(parsed) and len(parsed) == len(as_text)):
            return literal, as_text
    return start, parsed


def _is_table(parsed: list[Line]) -> bool:
    """Whether every row parses, and has as many cells as the others."""
    widths = {-1 if isinstance(cells, BadRow) else len(cells) for _, cells in parsed if cells}
    return len(widths) == 1 and -1 not in widths


def _lines(path: Path, every: list[str], dialect: Dialect) -> Iterator[Line]:
    """Yield the cells of every row with its place; no cells for a blank line."""
    reader = dialect.reader(every)
    while True:
        where = Where(str(path), reader.line_num + 1)  # a quoted cell may span several lines
        try:
            yield where, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"{where}: the row does not parse as CSV ({error}). {_advice(error)}"
            yield where, BadRow(where, problem)


def _advice(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "A quote opens in this row and does not close; within quotes, double it."
    return "Quote cells that hold commas, quotes or line breaks, and double the quotes in them."


def _notes(path: Path, dialect: Dialect, expected: str) -> Iterator[Note]:
    if dialect.delimiter != expected:
        yield Note(f"{path}: cells are separated by {dialect.name}")
    if not dialect.quoted:
        yield Note(f"{path}: quotes are part of the text")
    if dialect.spaced:
        yield Note(f"{path}: spaces before a cell are left out")


def _row(where: Where, dialect: Dialect, header: list[str], cells: list[str]) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(
            where,
            f"{where}: the row has {len(cells)} cells ({shorten(cells)}); expected "
            f"{len(header)}, as in the header. Quote cells that hold {dialect.name}.",
        )
    wrong = undecoded(where, dialect.delimiter.join(cells))
    named = {name: cell for name, cell in zip(header, cells, strict=True) if name}
    return wrong or Row(where, named)


def _checked_header(where: Where, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise TaskError(
            f"{where}: the header names the column {twice[0]!r} more than once. Rename one of them."
        )
    return header
