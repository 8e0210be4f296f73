"""Names of runs and of their files."""

from __future__ import annotations

import re


def run_name(task: str, label: str, seed: int) -> str:
    """Return the name of a run, which its files and its folder carry."""
    return f"{to_file_name(task)}--{to_file_name(label)}--{seed}"


def to_file_name(name: str) -> str:
    """Replace the characters of a label that do not belong in a file name by hyphens."""
    return re.sub(r"[^\w.]+", "-", name)
