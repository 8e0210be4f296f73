"""Measure coverage of the intervals and false positives on simulated studies.

This prints the tables of docs/report.md:

python docs/results/interval_coverage.py
"""

from __future__ import annotations

import numpy as np

from rankwright.study.statistics import Difference, judge

STUDIES, ROWS, DRAWS = 2000, 200, 1000
# Standard deviations of the effects of seeds and rows, and of the rest.
CAUSES = {
    "seeds": (0.05, 0.0, 0.1),
    "rows": (0.0, 0.4, 0.1),
    "the rest": (0.0, 0.0, 0.4),
    "all three": (0.02, 0.3, 0.3),
}


METHODS, FAMILIES = 5, 500


def main() -> None:
    """Print the coverage by cause and number of seeds, then the false positives."""
    rng, counts = draw_rows()
    for name in CAUSES:
        for seeds in (2, 3, 5, 10):
            held = np.zeros(2)
            for _ in range(STUDIES):
                found = simulate(rng, counts, name, seeds)
                both = (found.over_rows, found.over_seeds)
                held += [e is not None and e.low <= 0 <= e.high for e in both]
            shares = "  ".join(f"{share:.3f}" for share in held / STUDIES)
            print(f"{name:10} {seeds:2} seeds: seeds and rows, seeds alone  {shares}", flush=True)
    rng, counts = draw_rows()
    for seeds in (2, 3, 5, 10):
        shares = "  ".join(f"{share:.3f}" for share in count_false_positives(rng, counts, seeds))
        print(f"{seeds:2} seeds: better or worse, on these rows  {shares}", flush=True)


def draw_rows() -> tuple[np.random.Generator, np.ndarray]:
    """Return a generator, and how often each row is in each draw."""
    rng = np.random.default_rng(1)
    return rng, rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), DRAWS).astype(float)


def simulate(rng: np.random.Generator, counts: np.ndarray, cause: str, seeds: int) -> Difference:
    """Return the difference of two methods that are equally good."""
    of_seed, of_row, rest = CAUSES[cause]
    table = of_seed * rng.normal(size=(seeds, 1)) + of_row * rng.normal(size=ROWS)
    table = table + rest * rng.normal(size=(seeds, ROWS))
    return Difference.of(table.mean(axis=1).tolist(), counts @ table.T / ROWS, ROWS)


def count_false_positives(rng: np.random.Generator, counts: np.ndarray, seeds: int) -> np.ndarray:
    """Return the shares of studies of equal methods in which any is better or worse."""
    wrong = np.zeros(2)
    for _ in range(FAMILIES):
        every = {str(k): simulate(rng, counts, "all three", seeds) for k in range(METHODS)}
        findings = {verdict.finding for verdict in judge(every, "baseline").values()}
        wrong += [bool(findings & {"better", "worse"}), any("rows" in f for f in findings)]
    return wrong / FAMILIES


if __name__ == "__main__":
    main()
