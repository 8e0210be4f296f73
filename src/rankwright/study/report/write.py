"""Writing of the report's files; a file is replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job.files import write_text
from rankwright.study.records.folder import StudyFolder
from rankwright.study.report.card import render_card
from rankwright.study.report.page import render_html, render_markdown
from rankwright.study.report.results import StudyResults


def write_html(results: StudyResults, folder: StudyFolder, output: Path | None = None) -> Path:
    """Write the HTML file, by default DIR/report.html, and return its path."""
    return _write(output or folder.path / "report.html", render_html(results))


def write_markdown(results: StudyResults, folder: StudyFolder, output: Path | None = None) -> Path:
    """Write the Markdown summary, by default DIR/report.md, and return its path."""
    return _write(output or folder.path / "report.md", render_markdown(results))


def write_card(
    results: StudyResults,
    folder: StudyFolder,
    output: Path | None = None,
    *,
    task: str | None = None,
    method: str | None = None,
    seed: int | None = None,
) -> Path:
    """Write the card of an adapter, by default as README.md beside it, and return its path.

    Raises:
        MethodError: There is no such finished run; see `model_card`. Or its adapter was not kept,
            and there is no `output`.
    """
    run, text = render_card(results, task=task, method=method, seed=seed)
    adapter = folder.run(run.name) / "adapter"
    if output is None and not adapter.is_dir():
        raise MethodError(
            f"{adapter} does not exist: it was deleted, or keep_adapters was false; "
            "give --output to write the card alone"
        )
    return _write(output or adapter / "README.md", text)


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path
