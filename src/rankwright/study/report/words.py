"""Numbers and findings as text. The templates call these functions as `words.NAME`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from rankwright.job.card import parameter as parameter  # for the templates
from rankwright.study.records.records import StudyRecord, TaskRecord
from rankwright.study.report.results import MethodResults, OverTasks, StudyResults, TaskResults
from rankwright.study.statistics import Estimate, Unit
from rankwright.study.statistics.power import ALPHA
from rankwright.study.statistics.verdict import Finding, format_p

LIMITS = {"train": "train_rows", "validation": "eval_rows", "test": "eval_rows"}
"""The option of a run that limits the rows of a split."""
HEADINGS: dict[Finding, str] = {
    "better": "better than",
    "better on these rows": "better on these rows, but not shown for others, than",
    "not distinguishable": "not distinguishable from",
    "worse on these rows": "worse on these rows, but not shown for others, than",
    "worse": "worse than",
    "one seed": "with only one seed, compared with",
}


def plus_minus(estimate: Estimate, unit: Unit, *, signed: bool = False) -> str:
    """Return a mean with half the width of its interval, `79.4 ± 1.2`, or the mean alone."""
    mean = unit.format_signed(estimate.mean) if signed else unit.format(estimate.mean)
    if math.isinf(estimate.half_width):
        return mean
    return f"{mean} ± {unit.format(estimate.half_width)}"


def count(number: float) -> str:
    """Return a number of parameters to three digits: `770`, `360 k`, `22.7 M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{_three_digits(number / size)} {letter}"
    return f"{number:.0f}"


def memory(size_bytes: float) -> str:
    """Return a size in MiB, or in GiB from 10 GiB: `947 MiB`."""
    mebibytes = size_bytes / 2**20
    if mebibytes >= 10 * 1024:
        return f"{_three_digits(mebibytes / 1024)} GiB"
    return f"{mebibytes:.0f} MiB"


def seconds(value: float) -> str:
    """Return a time in seconds to three digits: `74.6 s`."""
    return f"{_three_digits(value)} s"


def _three_digits(value: float) -> str:
    rounded = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(rounded)) if rounded > 0 else 0
    return f"{rounded:.{max(0, digits)}f}"


def half_width(e: Estimate) -> str:
    """Return half the width of an interval to four digits; a dash without an interval."""
    return "–" if math.isinf(e.half_width) else f"{e.half_width:.4g}"


def units(results: StudyResults) -> str:
    """Return the unit of differences."""
    in_points = all(task.unit.scale == 100 for task in results.tasks)
    return "points" if in_points else "the unit of the metric"


def metric(name: str, unit: Unit) -> str:
    """Return a metric with the factor at which it is shown: `accuracy × 100`."""
    return f"{name} × 100" if unit.scale == 100 else name


def axis(name: str, unit: Unit, greater_is_better: bool) -> str:
    """Return the title of the axis of a metric, which says if less is better."""
    return metric(name, unit) + ("" if greater_is_better else ", less is better")


def rows(task: TaskResults) -> str:
    """Return the rows reported on: `277 validation rows`."""
    return f"{reported(task):,} {task.task.reported_split} rows"


def reported(task: TaskResults) -> int:
    """Return the number of rows reported on."""
    rows, limit = task.task.rows[task.task.reported_split], task.task.options.get("eval_rows")
    return int(min(rows, limit or rows))


def notices(task: TaskResults) -> str:
    """Return the notices about a task's rows, with a space before each sentence."""
    return "".join(f" {notice[0].upper()}{notice[1:]}." for notice in task.task.notices)


def rows_of(task: TaskRecord, split: str) -> str:
    """Return how many rows a split has and how many were used: `2,490, 500 of them used`."""
    used = task.options.get(LIMITS[split]) if split in LIMITS else None
    count = f"{task.rows[split]:,}"
    return count if used is None or used >= task.rows[split] else f"{count}, {used:,} of them used"


def settings(method: MethodResults) -> str:
    """Return the settings of a method's runs after tuning: fields that were tuned, and options."""
    run, asked = method.runs[0], method.method.hyperparameters
    tuned = {n: v for n, v in run.hyperparameters.items() if n in asked and v != asked[n]}
    options = {name: value for name, value in run.options.items() if name != "task"}
    both = {**tuned, **options}
    return ", ".join(f"{name} = {parameter(value)}" for name, value in sorted(both.items()))


def lede(results: StudyResults) -> str:
    """Return a sentence or two on what was compared."""
    study = results.study
    tasks = ", ".join(task.task for task in study.tasks)
    tuned = f" after {_count_trials(results)} of tuning each" if study.trials else ""
    return (
        f"{_count_nouns(len(study.methods), 'method')} on {tasks}, "
        f"{_count_nouns(len(study.seeds), 'seed')} each, {budget(study)} a run{tuned}. "
        f"Model: {study.model}. Compared with {study.baseline}{_other_baselines(study)}."
    )


def _count_trials(results: StudyResults) -> str:
    """Return `3 trials`, or `up to 3 trials` if a search space had fewer points."""
    asked, methods = results.study.trials, [m for task in results.tasks for m in task.methods]
    fewer = any(m.tuning is None or len(m.tuning.trials) < asked for m in methods)
    return ("up to " if fewer else "") + _count_nouns(asked, "trial")


def budget(study: StudyRecord) -> str:
    """Return the budget of a run: `150 passes (rte) or 300 passes (cola, stsb)`."""
    tasks: dict[str, list[str]] = {}
    for task, allowed in study.budgets.items():
        tasks.setdefault(allowed.replace("-", " "), []).append(task)
    if len(tasks) == 1:
        return next(iter(tasks))
    return " or ".join(f"{allowed} ({', '.join(names)})" for allowed, names in tasks.items())


def _other_baselines(study: StudyRecord) -> str:
    """Return the comparisons with other methods than the baseline."""
    named = (f"{a} with {b}" for a, b in study.against.items() if b != study.baseline)
    return "".join(f"; {words}" for words in named)


def pair(results: StudyResults, label: str) -> str:
    """Return a method, with its baseline if the study has several."""
    several = len(results.baselines) > 1
    return f"{label} − {results.study.against[label]}" if several else label


def difference(results: StudyResults) -> str:
    """Return the heading of differences."""
    first, *others = results.baselines
    return "Difference" if others else f"Difference to {first}"


def column(results: StudyResults) -> str:
    """Return the heading of a column of differences."""
    first, *others = results.baselines
    return "difference" if others else f"− {first}"


def to_baseline(results: StudyResults, label: str) -> str:
    """Return ` to BASELINE` if the study has several baselines, else nothing."""
    return f" to {results.study.against[label]}" if len(results.baselines) > 1 else ""


def progress(results: StudyResults) -> str:
    """Return a sentence on unfinished runs; empty if all are finished."""
    planned = len(results.study.runs)
    if results.finished == planned:
        return ""
    failed = f", {len(results.failures)} ended with an error" if results.failures else ""
    return (
        f"{results.finished} of {planned} runs are finished{failed}. Methods are compared on the "
        "seeds that both have finished."
    )


def in_short(task: TaskResults, baselines: Sequence[str]) -> str:
    """Return the findings on one task in a sentence or two."""
    compared = [method for method in task.methods if method.verdict is not None]
    if not compared:
        return f"no finished run to compare with {' and '.join(baselines)}."
    if len(compared) == 1 and compared[0].verdict is not None:
        return compared[0].verdict.describe(task.unit)
    if all(m.verdict and m.verdict.finding == "one seed" for m in compared):
        others = " and ".join(baselines)
        each = ", ".join(_with_difference(m, task.unit) for m in compared)
        return f"one seed distinguishes nothing; run more seeds. Differences to {others}: {each}."
    parts = []
    for baseline, (finding, heading) in itertools.product(baselines, HEADINGS.items()):
        found = [
            m
            for m in compared
            if m.verdict and (m.verdict.baseline, m.verdict.finding) == (baseline, finding)
        ]
        names = [_with_difference(m, task.unit) for m in found]
        if finding == "not distinguishable":
            names = [m.label for m in found]
        if names:
            parts.append(f"{heading} {baseline}: {', '.join(names)}")
    return "; ".join(parts) + "."


def unfinished(task: TaskResults, study: StudyRecord) -> str:
    """Return the missing seeds of every method: `full 3; bidora 0, 1`; empty if none."""
    finished = {method.label: method.missing for method in task.methods}
    missing = {m.label: finished.get(m.label, study.seeds) for m in study.methods}
    return "; ".join(
        f"{label} {', '.join(map(str, seeds))}" for label, seeds in missing.items() if seeds
    )


def constant(task: TaskResults) -> str:
    """Return the name of the constant baseline: `always “1”`; empty without one."""
    if task.constant is None:
        return ""
    answer = task.constant.answer
    return f"always {answer}" if task.task.kind == "regression" else f"always “{answer}”"


def stuck(task: TaskResults) -> list[str]:
    """Return a sentence for every method with runs that give every row the same answer."""
    return [_describe_stuck(method, task) for method in task.methods if method.stuck]


def _describe_stuck(method: MethodResults, task: TaskResults) -> str:
    same = "nearly the same number" if task.task.kind == "regression" else "the same answer"
    seeds = len(method.runs)
    where = "" if seeds == 1 else f" on {len(method.stuck)} of {seeds} seeds"
    return f"{method.label} gives every row {same}{where}: it has learned nothing from the input."


def _with_difference(method: MethodResults, unit: Unit) -> str:
    assert method.verdict is not None
    difference = plus_minus(method.verdict.difference.over_seeds, unit, signed=True)
    return f"{method.label} ({difference})"


def over_tasks(found: OverTasks) -> str:
    """Return Wilcoxon's test over tasks as a sentence."""
    test = found.test
    text = (
        f"{found.label} is ahead of {found.against} on {test.won} of {test.tasks} tasks, "
        f"{format_p(found.p_value)}"
    )
    if found.least_p >= ALPHA:
        return f"{text} ({test.tasks} tasks cannot give less than {found.least_p:.2g})."
    return f"{text}."


def _count_nouns(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
