"""Print the tables and verdicts of a study in Markdown: `python docs/results/study_table.py DIR`.

DIR is the study's folder, or its packed records in `docs/results/records`. Outcomes by row contain
the labels of the data, so only the records of stdlib-docs have them: verdicts from the other
records say nothing about other rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rankwright.study.planning.specs import LEARNING_RATES
from rankwright.study.records.folder import StudyFolder
from rankwright.study.report.results import (
    MethodResults,
    StudyResults,
    TaskResults,
    compute_results,
)
from rankwright.study.report.words import plus_minus


def table(task: TaskResults, study: StudyResults) -> list[str]:
    """Return the task's table, one line per method, in the study's order."""
    order = [method.label for method in study.study.methods]
    methods = sorted(task.methods, key=lambda method: order.index(method.label))
    first, *others = study.study.seeds
    head = ["method", f"seed {first}", *map(str, others), "mean", "rates found", "steps", "passes"]
    ruler = ["---", *["---:"] * (len(study.study.seeds) + 1), "---", *["---:"] * 3]
    rows = [_row(method, task, study.study.seeds) for method in methods]
    return ["| " + " | ".join(cells) + " |" for cells in ([*head, "stored"], ruler, *rows)]


def _row(method: MethodResults, task: TaskResults, seeds: tuple[int, ...]) -> list[str]:
    by_seed = {run.seed: task.unit.format(run.value) for run in method.runs}
    mean = plus_minus(method.mean, task.unit)
    steps = method.average(lambda run: run.cost.steps)
    costs = [f"{steps:.0f}", f"{method.passes:.0f}", f"{method.stored_parameters / 1000:,.0f} k"]
    return [
        method.label,
        *(by_seed.get(seed, "") for seed in seeds),
        mean,
        _tuned_rates(method),
        *costs,
    ]


def _tuned_rates(method: MethodResults) -> str:
    """Return the learning rates that tuning found."""
    if method.tuning is None:
        return ""
    return ", ".join(
        f"{method.tuning.best[rate]:.2g}" for rate in LEARNING_RATES if rate in method.tuning.best
    )


def describe_verdicts(task: TaskResults) -> list[str]:
    """Return the verdict of every comparison in words."""
    verdicts = [method.verdict for method in task.methods]
    return [f"> {verdict.describe(task.unit)}" for verdict in verdicts if verdict is not None]


def main(folder: str) -> None:
    """Print every task of the study."""
    study = compute_results(StudyFolder(Path(folder)))
    for task in study.tasks:
        print(f"### {task.task.task}, {task.task.metric}\n")
        print("\n".join(table(task, study)), end="\n\n")
        print("\n>\n".join(describe_verdicts(task)), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1])
