"""A second way from a study's files to its figures: json, pyarrow and scipy, none of our code."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import scipy.stats
import sklearn.metrics

METRICS = {
    "accuracy": sklearn.metrics.accuracy_score,
    "matthews": sklearn.metrics.matthews_corrcoef,
    "loss_per_token": lambda tokens, nats: sum(nats) / sum(tokens),
}


def runs(folder: Path, task: str, label: str) -> list[dict[str, Any]]:
    """The records of a method on a task, with `value`: the metric from the outcomes of the rows."""
    found = [r for r in _records(folder) if (r["task"], r["label"]) == (task, label)]
    return sorted(found, key=lambda record: record["seed"])


@functools.cache
def _records(folder: Path) -> list[dict[str, Any]]:
    """Of all runs."""
    records = []
    for file in sorted((folder / "records").glob("*.json")):
        record = json.loads(file.read_text())
        table = pq.read_table(file.with_suffix(".parquet")).to_pydict()
        columns = [[json.loads(text) for text in table[c]] for c in ("label", "prediction")]
        records.append(record | {"value": METRICS[record["metric"]](*columns)})
    return records


def values(folder: Path, task: str, label: str) -> dict[int, float]:
    """The metric by seed."""
    return {run["seed"]: run["value"] for run in runs(folder, task, label)}


def differences(folder: Path, task: str, label: str, baseline: str) -> np.ndarray:
    """The method minus the baseline on every seed that both have."""
    ours, theirs = values(folder, task, label), values(folder, task, baseline)
    return np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def interval(numbers: Any) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t interval."""
    array = np.asarray(list(numbers))
    low, high = scipy.stats.t.interval(
        0.95, len(array) - 1, loc=array.mean(), scale=scipy.stats.sem(array)
    )
    return float(array.mean()), float(low), float(high)


def cost(folder: Path, task: str, label: str, name: str) -> float:
    """Mean of a field of the cost over seeds."""
    return fmean(run["cost"][name] for run in runs(folder, task, label))
