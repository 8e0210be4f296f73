"""Statistics of rows from which metrics follow, on all rows of a split or on resampled ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Values = Sequence[Any]
Floats = npt.NDArray[np.float64]


class RowStatistics(Protocol):
    """Statistics of the rows of a split that determine a metric."""

    @property
    def additive(self) -> bool:
        """Whether the metric is a function of sums over rows, and cheap to resample."""

    def value(self) -> float:
        """Return the metric of all rows."""

    def resampled(self, counts: Floats) -> Floats:
        """Return the metric of resampled rows, (draws,).

        Args:
            counts: How often each draw has each row, (draws, rows).
        """


@dataclass(frozen=True)
class RowSums:
    """A metric as a function of sums over rows.

    Attributes:
        columns: The summands, (rows, columns); a NumPy array or a SciPy sparse one.
        figure: The metric from sums of the columns, (draws, columns) to (draws,).
        exact: The metric of all rows, where a direct formula is more accurate than `figure`.
    """

    columns: Any
    figure: Callable[[Floats], Floats]
    exact: float | None = None
    additive = True

    def value(self) -> float:
        """Return the metric of all rows."""
        if self.exact is not None:
            return self.exact
        if isinstance(self.columns, np.ndarray):
            # Column by column, NumPy adds in pairs, as the libraries do; over axis 0 it would add
            # row after row, with other roundings.
            sums = np.array([column.sum() for column in self.columns.T])
        else:
            sums = self.columns.sum(axis=0)
        return float(self.figure(sums[None, :])[0])

    def resampled(self, counts: Floats) -> Floats:
        """Return the metric of resampled rows; see `RowStatistics.resampled`."""
        # SciPy returns sparse products column by column, in which sums over labels round otherwise.
        return self.figure(np.ascontiguousarray(counts @ self.columns))


def mean(figure: Callable[[Any, Any], float]) -> Callable[[Values, Values], RowSums]:
    """Return the statistics of a metric that is the mean of a figure of each row."""

    def statistics(predictions: Values, references: Values) -> RowSums:
        figures = [figure(p, y) for p, y in zip(predictions, references, strict=True)]
        columns = np.array(figures, dtype=np.float64)[:, None]
        return RowSums(columns, lambda sums: sums[:, 0] / len(references))

    return statistics


def by_label(
    predictions: Values, references: Values, figure: Callable[[Floats, Floats, Floats], Floats]
) -> RowSums:
    """Return the statistics of a metric that counts rows by label.

    Args:
        predictions: Class indices, (rows,), or a 0/1 matrix of labels, (rows, labels).
        references: The same.
        figure: The metric from three counts of rows, each (draws, labels): rows that name a label,
            rows that have it, and rows that both name and have it.
    """
    named, present = np.asarray(predictions, dtype=int), np.asarray(references, dtype=int)
    if named.ndim == 1:
        columns = _indicate_classes(named, present)
    else:
        columns = np.concatenate([named, present, named * present], axis=1).astype(np.float64)
    return RowSums(columns, lambda sums: figure(*np.split(sums, 3, axis=1)))


def _indicate_classes(named: npt.NDArray[np.int64], present: npt.NDArray[np.int64]) -> Any:
    """Return 0/1 columns (rows, 3 classes): the class named, the class present, and both.

    The array is sparse: a dense one would take 1.2 GB for 50,000 rows of 1,000 classes.
    """
    from scipy.sparse import csr_array

    classes, indices = np.unique(np.stack([named, present]), return_inverse=True)
    named, present = indices.reshape(2, -1)
    every, count = np.arange(len(named)), len(classes)
    both = np.flatnonzero(named == present)
    rows = np.concatenate([every, every, both])
    places = np.concatenate([named, present + count, named[both] + 2 * count])
    return csr_array((np.ones(len(rows)), (rows, places)), shape=(len(named), 3 * count))


def sum_labels(counts: npt.NDArray[Any]) -> Floats:
    """Sum over labels: (draws, labels) to (draws,)."""
    sums: Floats = counts.sum(axis=1, dtype=np.float64)
    return sums
