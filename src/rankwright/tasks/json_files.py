"""Rows from JSON: one object per line, or one array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rankwright.tasks.bad_rows import BadRow
from rankwright.tasks.errors import TaskError, Where, shorten
from rankwright.tasks.lines import undecoded
from rankwright.tasks.rows import Row

WHITE = " \t\r\n"


def json_lines(path: Path, lines: Iterable[str]) -> Iterator[Row | BadRow]:
    """Read one JSON object per line; blank lines are skipped."""
    yield from _rows_of_lines(path, lines)


def json_array(path: Path, lines: Iterable[str]) -> Iterator[Row | BadRow]:
    """Read an array of JSON objects, or JSON lines in a `.json` file.

    Raises:
        TaskError: If the file is neither, or the array does not parse.
    """
    every = list(lines)
    text = "".join(every)
    if text.lstrip(WHITE).startswith("["):
        yield from _rows_of_array(path, text)
    elif text.lstrip(WHITE).startswith("{") and _is_object(every):
        yield from _rows_of_lines(path, every)
    else:
        raise TaskError(
            f"{path}: expected an array of objects such as "
            '[{"text": "...", "label": 1}, ...], or one object a line.'
        )


def _is_object(every: list[str]) -> bool:
    """Whether the first line that is not blank is a complete JSON object."""
    first = next(line for line in every if line.strip())
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _rows_of_lines(path: Path, lines: Iterable[str]) -> Iterator[Row | BadRow]:
    for count, line in enumerate(lines, start=1):
        if line.strip():
            where = Where(str(path), count)
            yield undecoded(where, line) or _row_of_line(where, line)


def _row_of_line(where: Where, line: str) -> Row | BadRow:
    try:
        fields = json.loads(line, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        return BadRow(
            where,
            f"{where}: the row does not parse as JSON ({_problem(error)}): "
            f"{shorten(line.strip())}. Write one complete JSON object per line.",
        )
    return _row(where, fields)


def _rows_of_array(path: Path, text: str) -> Iterator[Row | BadRow]:
    """Yield the objects of an array, each with the line that it starts on."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats)
    position = _skip_white(text, text.index("[") + 1)
    line, counted = 1, 0
    ended = text[position : position + 1] == "]"
    while not ended:
        line, counted = line + text.count("\n", counted, position), position
        where = Where(str(path), line)
        try:
            fields, position = decoder.raw_decode(text, position)
            ended = _check_separator(text, _skip_white(text, position)) == "]"
        except (ValueError, RecursionError) as error:  # the start of the next row is unknown
            raise TaskError(
                f"{where}: the array does not parse as JSON ({_problem(error)}): "
                f"{shorten(text[counted : counted + 60])}. Correct it."
            ) from error
        yield undecoded(where, text[counted:position]) or _row(where, fields)
        position = _skip_white(text, position) + 1
        position = position if ended else _skip_white(text, position)
    if text[position:].strip("]" + WHITE):
        raise TaskError(f"{path}: there is text after the end of the array. Write one array.")


def _check_separator(text: str, position: int) -> str:
    if text[position : position + 1] not in (",", "]"):
        raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
    return text[position]


def _skip_white(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _row(where: Where, fields: object) -> Row | BadRow:
    if isinstance(fields, dict):
        return Row(where, _unnested(fields))
    is_array = isinstance(fields, list) and ".json" not in Path(where.path).suffixes
    hint = " Is the file one array? Then name it .json." if is_array else ""
    return BadRow(
        where,
        f"{where}: the row is {shorten(fields)}; expected a JSON object with the "
        f'columns as keys, such as {{"text": "...", "label": 1}}.{hint}',
    )


def _unnested(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a question that contains its choices, as in the files of ARC."""
    question = fields.get("question")
    if (
        not isinstance(question, dict)
        or not {"stem", "choices"} <= question.keys()
        or question.keys() & fields.keys()
    ):
        return fields
    return {**fields, **question, "question": question["stem"]}


def _problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs more than once")
    return fields
