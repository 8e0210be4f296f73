"""docs/results/README.md leads to every page, study and script of its folder."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
PAGE = RESULTS / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINKS = re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)", TEXT)
THERE = [
    *(file for file in RESULTS.iterdir() if file.is_file() and file != PAGE),
    *(RESULTS / "studies").glob("*.yaml"),
    *(RESULTS / "records").iterdir(),
]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes links of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", sorted(THERE), ids=lambda path: path.name)
def test_every_page_study_and_script_is_named(path: Path) -> None:
    assert path in {(RESULTS / target).resolve() for target, _ in LINKS}


def test_links_lead_somewhere() -> None:
    for target, section in LINKS:
        page = (RESULTS / target).resolve()
        assert page.exists(), target
        assert not section or section in anchors(page), f"{target}#{section}"


def test_modules_and_scripts_of_the_commands_are_there() -> None:
    modules = re.findall(r"python -m ([\w.]+)", TEXT)
    assert modules
    assert all(importlib.util.find_spec(name) for name in modules)
    scripts = re.findall(r"(?:python |^|=\$\w+ )((?:docs|examples)/\S+\.(?:py|sh))", TEXT)
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)
