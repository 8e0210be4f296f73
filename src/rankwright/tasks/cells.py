"""Read cells of a row as texts, numbers, labels or lists; errors name the place of a bad cell."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Sequence

from rankwright.tasks.errors import cell_error
from rankwright.tasks.rows import Row

LONGEST_TEXT = 1_000_000
"""Maximum number of characters of a text; a tokenizer takes seconds for this many."""


def text(row: Row, column: str) -> str:
    """Return a cell that must be a string with more than white space.

    Raises:
        TaskError: If it is not a string, is empty, is longer than `LONGEST_TEXT`, or contains a
            lone surrogate.
    """
    value = row[column]
    if not isinstance(value, str):
        raise cell_error(row.where, column, value, "a text", "Write it as a string.")
    if not value.strip():
        fix = "Fill the cell or remove the row."
        raise cell_error(row.where, column, value, "a text that is not empty", fix)
    if len(value) > LONGEST_TEXT:
        fix = (
            f"It has {len(value):,}, of which at most max_length tokens would be used. Divide it "
            "into several rows."
        )
        raise cell_error(row.where, column, value, f"at most {LONGEST_TEXT:,} characters", fix)
    _check_characters(row, column, value)
    return value


def shown(row: Row, column: str) -> str:
    """Return a cell as a prompt shows it: a text or a number; a missing value becomes empty.

    Raises:
        TaskError: If it is a list or a mapping, or contains a lone surrogate.
    """
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        fix = "Leave it out of prompt_template, or write it as a string."
        raise cell_error(row.where, column, value, "a text or a number", fix)
    _check_characters(row, column, str(value))
    return str(value)


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""Spelling of a number in a file; Python's `float` also takes 1_0, nan and non-ASCII digits."""


DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)


def number(row: Row, column: str) -> float:
    """Return a cell that must be a finite number, or a string that spells one (as in CSV).

    Surrounding spaces are ignored.

    Raises:
        TaskError: If it is anything else.
    """
    value = row[column]
    result = _number(value)
    if result is not None:
        return result
    fix = "Write a number, or choose kind sequence_classification if these are names."
    if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value.strip()):
        fix = "Write the decimal point as a point, and no separator of thousands."
    if is_missing(value):
        fix = "The number is missing: fill it in, or remove the row."
    raise cell_error(row.where, column, value, "a finite number", fix)


def _number(value: object) -> float | None:
    """Return the finite number that a value is or spells; `None` for any other value."""
    if isinstance(value, str):
        value = value.strip(" \t")
        if not NUMBER.fullmatch(value):
            return None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return result if math.isfinite(result) else None


MISSING = frozenset(
    [
        "", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan",
        "<na>", "n/a", "na", "nan", "null",
    ]
)  # fmt: skip
"""Spellings of a missing value in text files, in any case: those that pandas recognises.

`None` is missing too, but `none` and `NONE` are classes of well-known data sets.
"""


def is_missing(value: object) -> bool:
    """Whether a cell holds no value: None, NaN, or one of `MISSING`."""
    if isinstance(value, str):
        spelled = value.strip()
        return spelled == "None" or spelled.casefold() in MISSING
    return value is None or value != value  # NaN


def label(row: Row, column: str, names: Sequence[str] | None = None) -> str:
    """Return the name of a class: the cell must be a string, an integer or a boolean.

    Args:
        row: The row.
        column: The column.
        names: The names that the user gave; "None" may be one of them.

    Raises:
        TaskError: If it is anything else, or the label is missing.
    """
    return _label(row, column, row[column], names or ())


def labels(row: Row, column: str, names: Sequence[str] | None = None) -> list[str]:
    """Return the names in a list of classes; the list may be empty.

    Args:
        row: The row.
        column: The column.
        names: The names that the user gave; "None" may be one of them.

    Raises:
        TaskError: If the cell is not a list, or one of its items is not a class name.
    """
    return [_label(row, column, item, names or ()) for item in _items(row, column)]


SEPARATORS = (";", "|")
"""Separators of several names in one cell; a comma may be part of a name."""


def label_set(row: Row, column: str, names: Sequence[str] | None = None) -> list[str]:
    """Return the names in a list, or in a text that separates them by `;` or `|`.

    Args:
        row: The row.
        column: The column.
        names: The names that the user gave.

    Raises:
        TaskError: If the cell is neither, an item is not a class name, or the separator is
            ambiguous.
    """
    value = decode(row[column])
    if not isinstance(value, str):
        return labels(row, column, names)
    if is_missing(value) or value in (names or ()):
        return [_label(row, column, value, names or ())]
    found = separators_in(value)
    if len(found) > 1 or (not found and "," in value):
        fix = 'Put ; between them, or write a JSON list such as ["a", "b"].'
        raise cell_error(row.where, column, value, "one name, or names with ; or | between", fix)
    parts = value.split(found[0]) if found else [value]
    return [_label(row, column, part.strip(), names or ()) for part in parts]


def separators_in(value: str) -> list[str]:
    """Return the separators of names that a text contains."""
    return [mark for mark in SEPARATORS if mark in value]


def _label(row: Row, column: str, value: object, names: Sequence[str]) -> str:
    if is_missing(value) and value not in names:
        fix = "The label is missing: fill it in, or remove the row."
        if isinstance(value, str) and value.strip():
            fix += (
                " If this is the name of a class, list every label in label_names (--label-names)."
            )
        raise cell_error(row.where, column, value, "a class name", fix)
    if not isinstance(value, str | int):
        fix = "Write the class as a string or integer; for numeric targets choose kind regression."
        raise cell_error(row.where, column, value, "a class name", fix)
    return str(value)


def strings(row: Row, column: str) -> list[str]:
    """Return a cell that must be a list of at least one non-empty string.

    Raises:
        TaskError: If it is not a list, is empty, or an item is not a string, is empty, or contains
            a lone surrogate.
    """
    return strings_in(row, column, _items(row, column))


def strings_in(row: Row, column: str, items: Sequence[object]) -> list[str]:
    """Return the strings of a list within a cell, checked as by `strings`.

    Raises:
        TaskError: See `strings`.
    """
    result = [item for item in items if isinstance(item, str) and item.strip()]
    if not items or len(result) != len(items):
        fix = "Remove what is empty, and write every item as a string."
        raise cell_error(row.where, column, items, "a list of texts that are not empty", fix)
    for item in result:
        _check_characters(row, column, item)
    return result


def _check_characters(row: Row, column: str, value: str) -> None:
    """Refuse a lone surrogate, which JSON can encode and no tokenizer accepts."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        fix = f"Character {error.start + 1}, {half}, is half of a surrogate pair: remove it."
        raise cell_error(row.where, column, value, "whole characters", fix) from None


def index(row: Row, column: str, size: int) -> int:
    """Return a cell that must be an integer in `[0, size)`, or a string that spells one.

    Raises:
        TaskError: If it is anything else.
    """
    value = row[column]
    spelled = value.strip(" \t") if isinstance(value, str) else str(value)
    if isinstance(value, str | int) and spelled in map(str, range(size)):
        return int(spelled)
    fix = "Count the choices from 0."
    if is_missing(value):
        fix = "The answer is missing: fill it in, or remove the row."
    raise cell_error(row.where, column, value, f"the index of a choice, 0 to {size - 1}", fix)


def is_integer(value: object) -> bool:
    """Whether a cell is or spells a whole number."""
    return isinstance(value, str | int) and str(value).strip().removeprefix("-").isdecimal()


def decode(value: object) -> object:
    """Return a cell, parsed if it is a list or a mapping written in JSON, as in CSV files."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _items(row: Row, column: str) -> list[object]:
    value = decode(row[column])
    if not isinstance(value, list):
        fix = 'Write it as a JSON list such as ["a", "b"].'
        raise cell_error(row.where, column, value, "a list", fix)
    return value
