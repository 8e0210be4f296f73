"""AGENTS.md is one page, and the targets, files and contracts that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "AGENTS.md").read_text(encoding="utf-8")


def test_it_is_one_page() -> None:
    assert len(TEXT.splitlines()) <= 80


def test_targets_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([\w.-]+)`", TEXT))
    assert named >= {".venv", "format", "check", "test"}
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert named <= set(phony.split())


def test_variables_of_the_tests_are_those_that_make_sets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (exported,) = re.findall(r"^export (OMP.*)$", TEXT, flags=re.MULTILINE)
    assert {"HF_HUB_OFFLINE=1", "TOKENIZERS_PARALLELISM=false"} < set(exported.split())
    assert "OFFLINE   := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false\n" in makefile
    assert "OMP_NUM_THREADS=1" in exported
    assert "TEST_THREADS ?= 1\n" in makefile


def test_files_and_folders_are_there() -> None:
    words = re.findall(r"(?<![\w/.])((?:src|tests|docs|core|training|job|\.ci)/[\w./-]+)", TEXT)
    assert len(words) > 30
    for word in words:
        path = word.rstrip(".")
        if path not in ("src/rankwright/X/", "tests/X"):
            assert (ROOT / path).exists() or (ROOT / "src" / "rankwright" / path).exists(), path


def test_layers_are_those_of_the_import_contract() -> None:
    (said,) = re.findall(r"`(cli > [^`]*)`", TEXT)
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = contract.split("layers = [", 1)[1].split("]", 1)[0]
    lines = [set(re.findall(r"\w+", line)) - {"worker"} for line in re.findall(r'"(.*)"', listed)]
    assert [set(re.findall(r"\w+", level)) for level in said.split(" > ")] == [
        line for line in lines if line != {"__main__"}
    ]
