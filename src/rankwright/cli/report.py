"""`rankwright report`: the report of a study, computed from its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rankwright.errors import MethodError
from rankwright.job.files import check_output, explain_output
from rankwright.job.paths import expanded
from rankwright.study.records.folder import StudyFolder
from rankwright.study.report import write_card, write_html, write_markdown
from rankwright.study.report.peft_layout import write_peft_layout
from rankwright.study.report.results import compute_results

Format = Literal["html", "markdown", "model-card", "peft", "packed"]
FOLDERS = ("peft", "packed")
"""Formats that consist of a folder."""


def report(
    folder: str,
    *,
    format: Format | None,  # noqa: A002  the name of the option
    output: str | None,
    task: str | None,
    method: str | None,
    seed: int | None,
    baseline: str | None,
    edited: bool = False,
) -> int:
    """Write the report and print its path.

    Args:
        folder: Folder of the study.
        format: What to write; None for HTML and Markdown.
        output: File to write, or folder for "peft" and "packed"; None for the defaults in
            `rankwright report --help`.
        task: Task of the model card.
        method: Method of the model card.
        seed: Seed of the model card.
        baseline: Method that all others are compared with; None for the study's own comparisons.
        edited: Whether to accept files that were edited after a run wrote them.

    Raises:
        MethodError: An option does not fit the format, or the folder holds no undamaged study.
    """
    _check_options(format, output, {"--task": task, "--method": method, "--seed": seed})
    study = StudyFolder(expanded(folder))
    if not edited:
        study.check()
    results = compute_results(study, baseline)
    target = None if output is None else expanded(output)
    if target is not None:
        _check_target(target, format)
    if format == "model-card":
        path = write_card(results, study, target, task=task, method=method, seed=seed)
        print(f"model card: {path}")
    if format == "peft":
        files = write_peft_layout(study, target)
        print(f"in the layout of PEFT's comparison: {files[0].parent.parent}")
    if format == "packed":
        print(f"records in one table: {study.pack(target or study.path / 'packed')}")
    if format in (None, "html"):
        print(f"report: {write_html(results, study, target)}")
    if format in (None, "markdown"):
        print(f"summary: {write_markdown(results, study, target)}")
    return 0


def _check_target(target: Path, format: Format | None) -> None:  # noqa: A002
    """Refuse an output that cannot be written, and create the folder of a format that is one."""
    if format not in FOLDERS:
        check_output(target)
        return
    with explain_output(target):
        target.mkdir(parents=True, exist_ok=True)


def _check_options(
    format: Format | None,  # noqa: A002
    output: str | None,
    card_options: Mapping[str, Any],
) -> None:
    """Refuse options that do not fit the format."""
    if format is None and output is not None:
        raise MethodError(f"--output {output}: give --format too, to say which file it is for")
    given = [name for name, value in card_options.items() if value is not None]
    if format != "model-card" and given:
        raise MethodError(f"{given[0]} {card_options[given[0]]}: only --format model-card takes it")
