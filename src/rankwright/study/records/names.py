"""Names of runs, and of their files."""

from __future__ import annotations

import re


def run_name(task: str, label: str, seed: int) -> str:
    """The name of a run's files and folder."""
    return f"{in_file_names(task)}--{in_file_names(label)}--{seed}"


def in_file_names(name: str) -> str:
    """A name that may stand in a file name."""
    return re.sub(r"[^\w.]+", "-", name)
