"""Read the choices of a question and its answer, in the forms that benchmarks use."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

from rankwright.tasks import cells
from rankwright.tasks.errors import TaskError, cell_error, listing, shorten
from rankwright.tasks.rows import Row

FORM = '["a", "b"] or {"text": ["a", "b"], "label": ["A", "B"]}'


@dataclass(frozen=True)
class Choices:
    """The choices of one question.

    Attributes:
        texts: The text of every choice.
        labels: Their labels in the file, such as A, B, C; empty if there are none.
    """

    texts: list[str]
    labels: list[str]


def choices(row: Row, column: str) -> Choices:
    """Return the choices of a row: a list of texts, or texts with labels.

    Labels lie beside the texts as in ARC, OpenBookQA and CommonsenseQA: `{"text": [...],
    "label": [...]}`, or a list of `{"text": ..., "label": ...}`.

    Raises:
        TaskError: If the cell is neither, or has fewer than two choices.
    """
    value = cells.decode(row[column])
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {name: [item.get(name) for item in value] for name in ("text", "label")}
    if isinstance(value, Mapping):
        texts, labels = _labelled_texts(row, column, value)
    else:
        texts, labels = cells.strings(row, column), []
    if len(texts) < 2:
        raise cell_error(row.where, column, texts, "at least two choices", "Add the others.")
    return Choices(texts, labels)


def _labelled_texts(
    row: Row, column: str, value: Mapping[str, object]
) -> tuple[list[str], list[str]]:
    texts, labels = value.get("text"), value.get("label")
    if not isinstance(texts, list):
        raise cell_error(row.where, column, row[column], "a list of texts", f"Write {FORM}.")
    checked = cells.strings_in(row, column, texts)
    if not isinstance(labels, list) or all(label is None for label in labels):
        return checked, []
    names = [str(label).strip() for label in labels]
    if len(names) != len(checked) or len(set(names)) != len(names):
        fix = "Give every choice a label of its own, or none."
        raise cell_error(row.where, column, labels, f"{len(checked)} different labels", fix)
    return checked, names


def answer(row: Row, column: str, among: Choices) -> tuple[int, str]:
    """Return the index of the right choice, and how the row gives it: "label", "index", ...

    Raises:
        TaskError: If the cell names no choice, or several.
    """
    value = row[column]
    readings = _readings(value, among)
    if len({index for index, _ in readings}) == 1:
        return readings[0]
    if readings:
        meanings = " or ".join(f"choice {index + 1} by its {form}" for index, form in readings)
        raise TaskError(
            f"{row.where}: column {column!r} holds {shorten(value)}, which may be {meanings}. "
            "Write all answers as indices of the choices, from 0, and no choice as a bare number."
        )
    if not among.labels and (cells.is_missing(value) or cells.is_integer(value)):
        return cells.index(row, column, len(among.texts)), "index"
    fix = f"The choices are {listing(map(repr, among.texts))}."
    raise cell_error(row.where, column, value, _expected(among), fix)


def _readings(value: object, among: Choices) -> list[tuple[int, str]]:
    """Return every reading of an answer; labels in the file take precedence over all others."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return []
    spelled = str(value).strip()
    if spelled in among.labels:
        return [(among.labels.index(spelled), "label")]
    readings = []
    if not among.labels:
        letters = string.ascii_uppercase[: len(among.texts)]
        if len(spelled) == 1 and spelled in letters:
            readings.append((letters.index(spelled), "letter"))
    if not any(label.isdecimal() for label in among.labels) and spelled in map(
        str, range(len(among.texts))
    ):
        readings.append((int(spelled), "index"))
    if isinstance(value, str):
        texts = [text.strip() for text in among.texts]
        readings += [(index, "text") for index, text in enumerate(texts) if text == spelled]
    return readings


def _expected(among: Choices) -> str:
    last = len(among.texts) - 1
    if among.labels:
        return f"one of the labels {listing(among.labels)}, or the text of a choice"
    letters = f"A to {string.ascii_uppercase[last % 26]}"
    return f"the index of a choice, 0 to {last}, its letter, {letters}, or its text"
