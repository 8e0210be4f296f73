"""How often intervals hold the truth and equal methods seem to differ, on simulated studies.

The tables of docs/report.md:

python docs/results/interval_coverage.py
"""

from __future__ import annotations

import numpy as np

from rankwright.study.statistics import Difference, judge

STUDIES, ROWS, DRAWS = 2000, 200, 1000
# Standard deviations of a seed's effect, a row's, and what is left.
CAUSES = {
    "seeds": (0.05, 0.0, 0.1),
    "rows": (0.0, 0.4, 0.1),
    "the rest": (0.0, 0.0, 0.4),
    "all three": (0.02, 0.3, 0.3),
}


METHODS, FAMILIES = 5, 500


def main() -> None:
    """Print a row for every cause and number of seeds, then for every number of seeds."""
    rng, counts = drawn()
    for name in CAUSES:
        for seeds in (2, 3, 5, 10):
            held = np.zeros(2)
            for _ in range(STUDIES):
                found = simulated(rng, counts, name, seeds)
                both = (found.over_rows, found.over_seeds)
                held += [e is not None and e.low <= 0 <= e.high for e in both]
            shares = "  ".join(f"{share:.3f}" for share in held / STUDIES)
            print(f"{name:10} {seeds:2} seeds: seeds and rows, seeds alone  {shares}", flush=True)
    rng, counts = drawn()
    for seeds in (2, 3, 5, 10):
        shares = "  ".join(f"{share:.3f}" for share in called(rng, counts, seeds))
        print(f"{seeds:2} seeds: better or worse, on these rows  {shares}", flush=True)


def drawn() -> tuple[np.random.Generator, np.ndarray]:
    """A generator, and how often each row is in each draw."""
    rng = np.random.default_rng(1)
    return rng, rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), DRAWS).astype(float)


def simulated(rng: np.random.Generator, counts: np.ndarray, cause: str, seeds: int) -> Difference:
    """The difference of two methods that are equally good."""
    of_seed, of_row, rest = CAUSES[cause]
    table = of_seed * rng.normal(size=(seeds, 1)) + of_row * rng.normal(size=ROWS)
    table = table + rest * rng.normal(size=(seeds, ROWS))
    return Difference.of(table.mean(axis=1).tolist(), counts @ table.T / ROWS, ROWS)


def called(rng: np.random.Generator, counts: np.ndarray, seeds: int) -> np.ndarray:
    """In how many studies of equal methods one is called better or worse; and "on these rows"."""
    wrong = np.zeros(2)
    for _ in range(FAMILIES):
        every = {str(k): simulated(rng, counts, "all three", seeds) for k in range(METHODS)}
        findings = {verdict.finding for verdict in judge(every, "baseline").values()}
        wrong += [bool(findings & {"better", "worse"}), any("rows" in f for f in findings)]
    return wrong / FAMILIES


if __name__ == "__main__":
    main()
