"""The tables of fields in docs/methods: every field is there, with the default that it has."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from method_table import METHODS
from rankwright.core.method import Method
from rankwright.core.method_registry import available_methods

PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
SHARED = {field.name for field in dataclasses.fields(Method)}


def defaults(method: type[Method]) -> dict[str, Any]:
    return {
        field.name: field.default
        for field in dataclasses.fields(method)
        if field.default_factory is dataclasses.MISSING
    }


def told(method: type[Method]) -> dict[str, str]:
    """Field -> what the page says of its default; several fields may share a row."""
    page = (PAGES / f"{method.name}.md").read_text("utf-8")
    head = re.compile(r"^\| field \| default \|.*\n.*\n((?:\|.*\n)+)", re.MULTILINE)
    found: dict[str, str] = {}
    for row in "".join(head.findall(page)).splitlines():
        field, default = (cell.strip() for cell in row.split(" | ")[:2])
        names = re.findall(r"`(\w+)`", field)
        values = re.split(r", (?![^(]*\))", default) if len(names) > 1 else [default]
        values = values * len(names) if len(values) == 1 else values
        found |= dict(zip(names, values, strict=False))
    return found


def says(words: str, value: Any) -> bool:
    """Whether the page's words are a default; for None they may say what is done instead."""
    if value is None:
        return bool(words)
    if isinstance(value, bool):
        return words == ("on" if value else "off")
    if isinstance(value, str):
        return words.strip('`"') == value
    if isinstance(value, tuple):
        return words == str(value)
    return float(Fraction(re.split(r"[ ,]", words)[0])) == value


@pytest.mark.parametrize("name", METHODS)
def test_every_field_is_on_the_page_with_its_default(name: str) -> None:
    method = available_methods()[name]
    found, fields = told(method), defaults(method)
    assert [field for field in fields.keys() - SHARED if field not in found] == []
    wrong = {n: words for n, words in found.items() if n in fields and not says(words, fields[n])}
    assert wrong == {}
