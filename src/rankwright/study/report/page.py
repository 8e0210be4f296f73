"""The report as one HTML file, and as Markdown."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from rankwright.study.report import words
from rankwright.study.report.environment import environment, source
from rankwright.study.report.plots.curves import Curve, curve_caption, curve_panels, learning_curves
from rankwright.study.report.plots.panel import Panel
from rankwright.study.report.plots.strips import Strip, forest, look, value_strips
from rankwright.study.report.plots.trade_offs import trade_offs
from rankwright.study.report.plots.tuning import tuning_panels
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
class TaskPage:
    """One task as the page shows it."""

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
        """What the study calls the task."""
        return self.results.task.task

    @property
    def forgetting(self) -> bool:
        """Whether a method has a figure of what it forgot."""
        return any(method.forgotten for method in self.results.methods)


@dataclass(frozen=True)
class Cell:
    """The difference of one method on one task: its figure, text, class and sign."""

    value: float
    text: str
    look: str
    sign: str


@dataclass(frozen=True)
class Row:
    """One method on all tasks."""

    label: str
    cells: list[Cell | None]
    over: OverTasks | None


def html(results: StudyResults) -> str:
    """The report as one HTML file that asks for nothing from the network."""
    templates = environment(autoescape=True)
    return templates.get_template("page.html.j2").render(
        results=results,
        tasks=[_task(number, task, results) for number, task in enumerate(results.tasks)],
        matrix=_matrix(results),
        least_p=max((found.least_p for found in results.over_tasks), default=1.0),
        words=words,
        version=importlib.metadata.version("rankwright"),
        style=source(templates, "style.css"),
        script=source(templates, "page.js"),
    )


def markdown(results: StudyResults) -> str:
    """The tables, the verdicts and how to repeat them, for a README or an issue."""
    template = environment(autoescape=False).get_template("summary.md.j2")
    return template.render(results=results, study=results.study, words=words)


def _task(number: int, task: TaskResults, results: StudyResults) -> TaskPage:
    differences, ticks = forest(task)
    curves = learning_curves(task)
    return TaskPage(
        id=f"task-{number}",
        results=task,
        values=value_strips(task),
        forest=differences,
        forest_ticks=ticks,
        trade_offs=trade_offs(task),
        curves=curves,
        curve_panels=curve_panels(task, curves, results.study.against),
        curve_caption=curve_caption(task),
        tuning=tuning_panels(task),
    )


def _matrix(results: StudyResults) -> list[Row]:
    over = {found.label: found for found in results.over_tasks}
    return [
        Row(
            words.pair(results, label),
            [_cell(task, label) for task in results.tasks],
            over.get(label),
        )
        for label in results.study.against
    ]


def _cell(task: TaskResults, label: str) -> Cell | None:
    for method in task.methods:
        if method.label == label and method.verdict is not None:
            verdict = method.verdict
            mean = verdict.difference.over_seeds.mean
            sign = _SIGNS[verdict.finding]
            return Cell(mean, task.unit.signed(mean), look(verdict.finding), sign)
    return None
