"""Print the tables and verdicts of a study in Markdown: `python docs/results/study_table.py DIR`.

DIR is the study's folder, or what is kept of it in `docs/results/records`, where each study is
packed into one table. Only those of stdlib-docs have outcomes row by row in it, since these hold
the data's labels: verdicts from the records of the others say nothing of other rows of the kind.
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
    """The task's table, a method a line, in the study's order."""
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
    figures = [f"{steps:.0f}", f"{method.passes:.0f}", f"{method.stored_parameters / 1000:,.0f} k"]
    return [
        method.label,
        *(by_seed.get(seed, "") for seed in seeds),
        mean,
        _found(method),
        *figures,
    ]


def _found(method: MethodResults) -> str:
    """The learning rates of the runs, as tuning found them."""
    if method.tuning is None:
        return ""
    return ", ".join(
        f"{method.tuning.best[rate]:.2g}" for rate in LEARNING_RATES if rate in method.tuning.best
    )


def verdicts(task: TaskResults) -> list[str]:
    """What every method is beside what it is compared with, in words."""
    found = [method.verdict for method in task.methods]
    return [f"> {verdict.describe(task.unit)}" for verdict in found if verdict is not None]


def main(folder: str) -> None:
    """Print every task of the study."""
    study = compute_results(StudyFolder(Path(folder)))
    for task in study.tasks:
        print(f"### {task.task.task}, {task.task.metric}\n")
        print("\n".join(table(task, study)), end="\n\n")
        print("\n>\n".join(verdicts(task)), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1])
