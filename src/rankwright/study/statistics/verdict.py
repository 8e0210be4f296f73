"""What the figures of two methods allow to say, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankwright.study.statistics.interval import Estimate, estimate, spread
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
    """How a metric is written.

    Attributes:
        scale: Shown figure over stored figure: 100 for a share that is shown in points.
        digits: Digits after the point.
    """

    scale: float = 1.0
    digits: int = 4

    def number(self, value: float) -> str:
        """The figure, `79.4`."""
        return f"{value * self.scale:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """The figure with its sign, `+0.8` or `−0.8`; a zero has none."""
        text = f"{value * self.scale:+.{self.digits}f}"
        return text[1:] if float(text) == 0 else text.replace("-", "−")


@dataclass(frozen=True)
class Difference:
    """A method minus a baseline, on the seeds that both ran.

    Attributes:
        by_seed: The difference on each seed, in the unit of the metric.
        over_seeds: Its mean; the interval is for other seeds and these rows.
        over_rows: The same mean; the interval is for other seeds and other rows. None where the
            outcomes of the rows are not known.
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
        """The difference with both intervals; see `over_seeds_and_rows` for the arguments."""
        over_rows = None if resampled is None else over_seeds_and_rows(by_seed, resampled, rows)
        return cls(tuple(by_seed), estimate(by_seed), over_rows, rows)


@dataclass(frozen=True)
class Verdict:
    """A difference and what it shows.

    Attributes:
        method: The method.
        baseline: What it is compared with.
        difference: The figures.
        p_value: For other seeds and these rows, after Holm's correction.
        finding: What they show, at the level of 0.05; "on these rows" where nothing is shown, or
            known, for other rows.
        methods: How many methods were corrected for.
    """

    method: str
    baseline: str
    difference: Difference
    p_value: float
    finding: Finding
    methods: int

    @property
    def seeds_needed(self) -> int | None:
        """Seeds that would see a difference of this size on these rows; None for more than 1000.

        At 0.05 / methods, Holm's strictest step: a difference that is not seen always needs more
        seeds than there are.
        """
        values = np.asarray(self.difference.by_seed)
        if values.size < 2:
            return None
        return seeds_needed(values.mean(), spread(values), alpha=ALPHA / self.methods)

    def words(self, unit: Unit) -> str:
        """The verdict as a sentence or two."""
        mean, seeds = self.difference.over_seeds.mean, len(self.difference.by_seed)
        name = f"{self.method} − {self.baseline}"
        if not any(self.difference.by_seed):
            each = "with one seed" if seeds == 1 else f"on every one of {seeds} seeds"
            return f"{name} = 0 {each}: not distinguishable."
        if self.finding == "one seed":
            return (
                f"{name} = {unit.signed(mean)} with one seed: it has no interval; run more seeds."
            )
        sentence = f"{name} = {unit.signed(mean)} {self._scatter(unit)}: {self._finding(seeds)}"
        return f"{sentence}{self._needed(unit)}.{self._other_rows(unit)}"

    def _scatter(self, unit: Unit) -> str:
        """Plus-minus so much; a metric of few rows may give every seed the same difference."""
        if self.difference.over_seeds.error == 0:
            return f"on every one of {len(self.difference.by_seed)} seeds"
        return f"± {unit.number(self.difference.over_seeds.half_width)}"

    def _finding(self, seeds: int) -> str:
        if self.finding == "not distinguishable":
            text = f"not distinguishable with {seeds} seeds"
            if self.difference.over_seeds.p_value < ALPHA:  # the interval does not hold 0
                text += f", {p_words(self.p_value)} after correction for {self.methods} methods"
            return text
        return f"{self.finding}, {p_words(self.p_value)}, {seeds} seeds"

    def _needed(self, unit: Unit) -> str:
        if self.finding != "not distinguishable":
            return ""
        count = self.seeds_needed or f"more than {MOST_SEEDS}"
        seen = unit.number(abs(self.difference.over_seeds.mean))
        if float(seen) == 0:  # nothing to be seen in the digits that are shown
            return ""
        return f"; {count} seeds would be needed to see {seen}"

    def _other_rows(self, unit: Unit) -> str:
        if self.difference.over_rows is None:
            if self.finding == "not distinguishable":
                return ""
            return " The outcomes of the rows are not there to say so of others."
        plus_minus = unit.number(self.difference.over_rows.half_width)
        text = f" On other rows of the kind, ± {plus_minus}"
        if self.finding.endswith("on these rows"):
            return f"{text}: {self.difference.rows} rows are too few to say so in general."
        if plus_minus == unit.number(self.difference.over_seeds.half_width):
            return ""
        return f"{text}."


def verdicts(
    differences: Mapping[str, Difference],
    against: Mapping[str, str] | str,
    *,
    greater_is_better: bool = True,
) -> dict[str, Verdict]:
    """What each method is beside another, on one task.

    The p values over seeds are corrected for the number of methods, which is that of the
    comparisons, whatever each is compared with; and so are those over seeds and rows.

    Args:
        differences: By method.
        against: What they are compared with: one name, or one by method.
        greater_is_better: Whether a positive difference is good.
    """
    seeds = holm({name: d.over_seeds.p_value for name, d in differences.items()})
    rows = holm({n: d.over_rows.p_value if d.over_rows else 1.0 for n, d in differences.items()})
    return {
        name: Verdict(
            method=name,
            baseline=against if isinstance(against, str) else against[name],
            difference=difference,
            p_value=seeds[name],
            finding=_finding(difference, seeds[name], rows[name], greater_is_better),
            methods=len(differences),
        )
        for name, difference in differences.items()
    }


def p_words(p_value: float) -> str:
    """A p value, `p = 0.032` or `p < 0.001`: two digits, more where they would hide the level."""
    if p_value < 0.001:
        return "p < 0.001"
    texts = (f"{p_value:.{digits}g}" for digits in range(2, 18))
    return "p = " + next(text for text in texts if (float(text) < ALPHA) == (p_value < ALPHA))


def _finding(
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
