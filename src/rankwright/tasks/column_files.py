"""Rows from column files (CoNLL): one word and its tag per line, a blank line after a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rankwright.tasks.bad_rows import BadRow, Note
from rankwright.tasks.errors import TaskError, Where, shorten
from rankwright.tasks.lines import undecoded
from rankwright.tasks.rows import Row

DOCUMENT = "-DOCSTART-"
MOSTLY = 0.9
"""Minimum share of lines with the same number of columns."""


def column_rows(path: Path, lines: Iterable[str]) -> Iterator[Row | BadRow | Note]:
    """Read sentences in the format of CoNLL's shared tasks.

    The columns of a line are separated by tabs or, without tabs, by spaces. Document
    marks (`-DOCSTART-`) are left out, and so are comments: lines that start with `#` and have
    another number of columns.

    Returns:
        Rows with the list of every column under its number, counted from 1. The first is also
        called `tokens` and the last `tags`, unless the first one numbers the words; then the user
        has to name both.

    Raises:
        TaskError: If the lines have no columns, or too many of them differ in their number.
    """
    split = [_columns(line) for line in lines]
    width = _width(path, split)
    split = [[] if _is_mark(columns, width) else columns for columns in split]
    sentences = list(_sentences(path, split))
    numbered = width > 2 and all(words[0][0].isdecimal() for _, words in sentences)
    if not numbered:
        what = (
            ""
            if width == 2
            else "; unless --tokens-column or --tags-column has another number, words are column "
            f"1 and tags column {width}"
        )
        yield Note(f"{path}: read as {len(sentences):,} sentences in {width} columns{what}")
    for where, words in sentences:
        yield _row(where, words, width, named=not numbered)


def _columns(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    if not line.strip():
        return []
    return line.split("\t") if "\t" in line else line.split()


def _is_mark(columns: list[str], width: int) -> bool:
    """Whether a line is a document mark or a comment, not a word."""
    return bool(columns) and (
        columns[0] == DOCUMENT or (columns[0].startswith("#") and len(columns) != width)
    )


def _width(path: Path, split: list[list[str]]) -> int:
    """Return the number of columns of the file, which is that of most lines."""
    words = [line for line in split if line and line[0] != DOCUMENT and line[0] != "#"]
    width, same = next(iter(Counter(map(len, words)).most_common(1)), (0, 0))
    if width < 2 or same < MOSTLY * len(words):
        other = next((line for line in words if len(line) != width), words[0] if words else [])
        raise TaskError(
            f"{path}: expected a word and its tag in every line, in as many columns as in all "
            f"others (most lines have {width}); found {shorten(' '.join(other))}. Plain text goes "
            'into a .jsonl file, one {"text": "..."} a line.'
        )
    return width


def _sentences(path: Path, split: list[list[str]]) -> Iterator[tuple[Where, list[list[str]]]]:
    start = 0
    words: list[list[str]] = []
    for number, columns in enumerate([*split, []], start=1):
        if columns:
            start = start if words else number
            words.append(columns)
        elif words:
            yield Where(str(path), start), words
            words = []


def _row(where: Where, words: list[list[str]], width: int, *, named: bool) -> Row | BadRow:
    for number, columns in enumerate(words, start=where.number):
        here = Where(where.path, number)
        if len(columns) != width:
            return BadRow(
                where,
                f"{here}: the line has {len(columns)} columns ({shorten(' '.join(columns))}); "
                f"expected {width}, as in the others.",
            )
        wrong = undecoded(here, "\t".join(columns))
        if wrong is not None:
            return BadRow(where, wrong.problem)
    lists = [list(column) for column in zip(*words, strict=True)]
    fields = {str(number): column for number, column in enumerate(lists, start=1)}
    if named:
        fields |= {"tokens": lists[0], "tags": lists[-1]}
    return Row(where, fields)
