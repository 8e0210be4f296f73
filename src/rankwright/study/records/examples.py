"""The outcome of a run on every reported row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankwright.job.files import replacing
from rankwright.tasks.constant import are_alike
from rankwright.tasks.metrics import METRICS


@dataclass(frozen=True)
class Examples:
    """The outcome of one run on every reported row, in the order of the rows.

    The parquet file has the columns `example` (string), `score` (double), `prediction` and `label`
    (strings that hold JSON). All runs of one task have the same examples with the same labels in
    the same order, for every method and seed, so outcomes can be paired by position.

    Attributes:
        metric: The primary metric, which `compute` returns.
        ids: The origin of every row, such as "validation.jsonl:12".
        scores: A figure of merit for every row, larger is better: 1.0 or 0.0 for right or wrong,
            minus the squared error of a number, the mean log p of a token, and so on; see
            `tasks.metrics.Metric.score_row`. For accuracy the mean of the scores is the metric; a
            correlation or an F1 is not a mean over rows: resample rows and call `compute`.
        predictions: The model's outputs, in the form that the metric takes.
        labels: The correct outputs, in the form that the metric takes.
    """

    metric: str
    ids: tuple[str, ...]
    scores: np.ndarray
    predictions: tuple[Any, ...]
    labels: tuple[Any, ...]

    def compute(self, rows: Sequence[int] | np.ndarray | None = None) -> float:
        """Return the metric over all rows, or over the given row numbers, which may repeat."""
        chosen = range(len(self.ids)) if rows is None else rows
        return METRICS[self.metric].compute(
            [self.predictions[row] for row in chosen], [self.labels[row] for row in chosen]
        )

    @property
    def alike(self) -> bool:
        """Whether every row got the same answer although the labels differ."""
        return are_alike(self.predictions, self.labels)

    def save(self, path: Path) -> None:
        """Write the parquet file atomically."""
        columns = {
            "example": pa.array(self.ids, pa.string()),
            "score": pa.array(self.scores, pa.float64()),
            "prediction": pa.array(map(json.dumps, self.predictions), pa.string()),
            "label": pa.array(map(json.dumps, self.labels), pa.string()),
        }
        table = pa.table(columns).replace_schema_metadata({"metric": self.metric})
        with replacing(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, file: Path | BinaryIO) -> Examples:
        """Read the parquet file."""
        table = pq.read_table(file)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        return cls(
            table.schema.metadata[b"metric"].decode(),
            tuple(columns["example"]),
            np.array(columns["score"], dtype=np.float64),
            tuple(map(json.loads, columns["prediction"])),
            tuple(map(json.loads, columns["label"])),
        )
