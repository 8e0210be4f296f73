"""Comparisons of methods with a baseline: differences, findings, and sentences that state them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankwright.study.statistics.interval import Estimate, estimate, standard_deviation
from rankwright.study.statistics.power import ALPHA, MOST_SEEDS, seeds_needed
from rankwright.study.statistics.several import holm
from rankwright.study.statistics.two_way import over_seeds_and_rows

Finding = Literal[
    "better",
    "worse",
    "better on these rows",
    "worse on these rows",
    "not distinguishable",
    "one seed",
]


@dataclass(frozen=True)
class Unit:
    """The unit in which a metric is shown.

    Attributes:
        scale: Shown over stored value: 100 for a share that is shown in points.
        digits: Digits after the decimal point.
    """

    scale: float = 1.0
    digits: int = 4

    def format(self, value: float) -> str:
        """Format a stored value, `79.4`."""
        return f"{value * self.scale:.{self.digits}f}"

    def format_signed(self, value: float) -> str:
        """Format a stored value with its sign, `+0.8` or `−0.8`; a zero has none."""
        text = f"{value * self.scale:+.{self.digits}f}"
        return text[1:] if float(text) == 0 else text.replace("-", "−")


@dataclass(frozen=True)
class Difference:
    """A method minus a baseline, on the seeds that both ran.

    Attributes:
        by_seed: The difference on each seed, in the unit of the metric.
        over_seeds: The mean, with an interval for other seeds and these rows.
        over_rows: The mean, with an interval for other seeds and other rows; None if the outcomes
            by row are unknown.
        rows: Number of rows whose outcomes are known.
    """

    by_seed: tuple[float, ...]
    over_seeds: Estimate
    over_rows: Estimate | None = None
    rows: int = 0

    @classmethod
    def of(
        cls, by_seed: Sequence[float], resampled: np.ndarray | None = None, rows: int = 0
    ) -> Difference:
        """Compute both intervals; see `over_seeds_and_rows` for the arguments."""
        over_rows = None if resampled is None else over_seeds_and_rows(by_seed, resampled, rows)
        return cls(tuple(by_seed), estimate(by_seed), over_rows, rows)


@dataclass(frozen=True)
class Verdict:
    """The finding of a comparison.

    Attributes:
        method: The method.
        baseline: The method that it is compared with.
        difference: The method minus the baseline.
        p_value: p for other seeds and these rows, after Holm's correction.
        finding: The finding at the level of 0.05; "on these rows" if nothing was shown, or nothing
            is known, for other rows.
        methods: Number of methods that the correction is for.
    """

    method: str
    baseline: str
    difference: Difference
    p_value: float
    finding: Finding
    methods: int

    @property
    def seeds_needed(self) -> int | None:
        """Seeds that would detect a difference of this size on these rows; None for more than 1000.

        The level is 0.05 / methods, Holm's strictest step, so that a difference that was not
        detected always needs more seeds than there were.
        """
        values = np.asarray(self.difference.by_seed)
        if values.size < 2:
            return None
        return seeds_needed(values.mean(), standard_deviation(values), alpha=ALPHA / self.methods)

    def describe(self, unit: Unit) -> str:
        """Return the verdict as one or two sentences."""
        mean, seeds = self.difference.over_seeds.mean, len(self.difference.by_seed)
        name = f"{self.method} − {self.baseline}"
        if not any(self.difference.by_seed):
            each = "with one seed" if seeds == 1 else f"on every one of {seeds} seeds"
            return f"{name} = 0 {each}: not distinguishable."
        if self.finding == "one seed":
            signed = unit.format_signed(mean)
            return f"{name} = {signed} with one seed: it has no interval; run more seeds."
        signed = f"{unit.format_signed(mean)} {self._describe_interval(unit)}"
        sentence = f"{name} = {signed}: {self._describe_finding(seeds)}"
        return f"{sentence}{self._describe_needed(unit)}.{self._describe_other_rows(unit)}"

    def _describe_interval(self, unit: Unit) -> str:
        """Return `± 0.8`; with few rows every seed may have the same difference."""
        if self.difference.over_seeds.error == 0:
            return f"on every one of {len(self.difference.by_seed)} seeds"
        return f"± {unit.format(self.difference.over_seeds.half_width)}"

    def _describe_finding(self, seeds: int) -> str:
        if self.finding == "not distinguishable":
            text = f"not distinguishable with {seeds} seeds"
            if self.difference.over_seeds.p_value < ALPHA:  # but the correction hides it
                text += f", {format_p(self.p_value)} after correction for {self.methods} methods"
            return text
        return f"{self.finding}, {format_p(self.p_value)}, {seeds} seeds"

    def _describe_needed(self, unit: Unit) -> str:
        if self.finding != "not distinguishable":
            return ""
        count = self.seeds_needed or f"more than {MOST_SEEDS}"
        seen = unit.format(abs(self.difference.over_seeds.mean))
        if float(seen) == 0:  # smaller than the digits shown
            return ""
        return f"; {count} seeds would be needed to see {seen}"

    def _describe_other_rows(self, unit: Unit) -> str:
        if self.difference.over_rows is None:
            if self.finding == "not distinguishable":
                return ""
            return " Outcomes by row are missing, so nothing is known about other rows."
        plus_minus = unit.format(self.difference.over_rows.half_width)
        text = f" On other rows of this kind, ± {plus_minus}"
        if self.finding.endswith("on these rows"):
            return f"{text}: {self.difference.rows} rows are too few for a general claim."
        if plus_minus == unit.format(self.difference.over_seeds.half_width):
            return ""
        return f"{text}."


def judge(
    differences: Mapping[str, Difference],
    against: Mapping[str, str] | str,
    *,
    greater_is_better: bool = True,
) -> dict[str, Verdict]:
    """Judge every method of one task.

    The p values over seeds are corrected for the number of methods, whichever baseline each has,
    and so are the p values over seeds and rows.

    Args:
        differences: Differences by method.
        against: The baseline of all methods, or baselines by method.
        greater_is_better: Whether a positive difference is an improvement.
    """
    seeds = holm({name: d.over_seeds.p_value for name, d in differences.items()})
    rows = holm({n: d.over_rows.p_value if d.over_rows else 1.0 for n, d in differences.items()})
    return {
        name: Verdict(
            method=name,
            baseline=against if isinstance(against, str) else against[name],
            difference=difference,
            p_value=seeds[name],
            finding=_find(difference, seeds[name], rows[name], greater_is_better),
            methods=len(differences),
        )
        for name, difference in differences.items()
    }


def format_p(p_value: float) -> str:
    """Format a p value, `p = 0.032` or `p < 0.001`.

    It has two digits, or as many as show on which side of 0.05 it lies.
    """
    if p_value < 0.001:
        return "p < 0.001"
    texts = (f"{p_value:.{digits}g}" for digits in range(2, 18))
    return "p = " + next(text for text in texts if (float(text) < ALPHA) == (p_value < ALPHA))


def _find(
    difference: Difference, p_value: float, p_value_rows: float, greater_is_better: bool
) -> Finding:
    if len(difference.by_seed) == 1 and any(difference.by_seed):
        return "one seed"
    if p_value >= ALPHA:
        return "not distinguishable"
    better = (difference.over_seeds.mean > 0) == greater_is_better
    if p_value_rows < ALPHA:
        return "better" if better else "worse"
    return "better on these rows" if better else "worse on these rows"
