"""The report of a study as one HTML file and as Markdown."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from rankwright.study.report import words
from rankwright.study.report.environment import make_environment, read_source
from rankwright.study.report.plots.curves import (
    Curve,
    average_curves,
    caption_curves,
    plot_curves,
)
from rankwright.study.report.plots.panel import Panel
from rankwright.study.report.plots.strips import (
    Strip,
    finding_class,
    place_differences,
    place_values,
)
from rankwright.study.report.plots.trade_offs import plot_trade_offs
from rankwright.study.report.plots.tuning import plot_tuning
from rankwright.study.report.results import OverTasks, StudyResults, TaskResults
from rankwright.study.statistics import Unit

_SIGNS = {
    "better": "▲ ",
    "better on these rows": "△ ",
    "not distinguishable": "",
    "worse on these rows": "▽ ",
    "worse": "▼ ",
    "one seed": "",
}


@dataclass(frozen=True)
class TaskSection:
    """The section of one task."""

    id: str
    results: TaskResults
    values: dict[str, Strip]
    forest: dict[str, Strip]
    forest_ticks: list[tuple[float, str]]
    trade_offs: list[Panel]
    curves: list[Curve]
    curve_panels: list[Panel]
    curve_caption: str
    tuning: list[Panel]
    nats = Unit(digits=3)

    @property
    def name(self) -> str:
        """The name of the task in the study."""
        return self.results.task.task

    @property
    def forgetting(self) -> bool:
        """Whether forgetting was measured for any method."""
        return any(method.forgotten for method in self.results.methods)


@dataclass(frozen=True)
class Cell:
    """The difference of one method on one task: its value, text, CSS class and sign."""

    value: float
    text: str
    css_class: str
    sign: str


@dataclass(frozen=True)
class Row:
    """The differences of one method on all tasks."""

    label: str
    cells: list[Cell | None]
    over: OverTasks | None


def render_html(results: StudyResults) -> str:
    """Render the report as one HTML file that loads nothing from the network."""
    templates = make_environment(autoescape=True)
    return templates.get_template("page.html.j2").render(
        results=results,
        tasks=[_build_section(number, task, results) for number, task in enumerate(results.tasks)],
        matrix=_build_matrix(results),
        least_p=max((found.least_p for found in results.over_tasks), default=1.0),
        words=words,
        version=importlib.metadata.version("rankwright"),
        style=read_source(templates, "style.css"),
        script=read_source(templates, "page.js"),
    )


def render_markdown(results: StudyResults) -> str:
    """Render tables, verdicts and how to repeat them as Markdown, for a README or an issue."""
    template = make_environment(autoescape=False).get_template("summary.md.j2")
    return template.render(results=results, study=results.study, words=words)


def _build_section(number: int, task: TaskResults, results: StudyResults) -> TaskSection:
    differences, ticks = place_differences(task)
    curves = average_curves(task)
    return TaskSection(
        id=f"task-{number}",
        results=task,
        values=place_values(task),
        forest=differences,
        forest_ticks=ticks,
        trade_offs=plot_trade_offs(task),
        curves=curves,
        curve_panels=plot_curves(task, curves, results.study.against),
        curve_caption=caption_curves(task),
        tuning=plot_tuning(task),
    )


def _build_matrix(results: StudyResults) -> list[Row]:
    over = {found.label: found for found in results.over_tasks}
    return [
        Row(
            words.pair(results, label),
            [_build_cell(task, label) for task in results.tasks],
            over.get(label),
        )
        for label in results.study.against
    ]


def _build_cell(task: TaskResults, label: str) -> Cell | None:
    for method in task.methods:
        if method.label == label and method.verdict is not None:
            verdict = method.verdict
            mean = verdict.difference.over_seeds.mean
            sign = _SIGNS[verdict.finding]
            return Cell(mean, task.unit.format_signed(mean), finding_class(verdict.finding), sign)
    return None
