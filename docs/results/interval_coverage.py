"""How often the interval of a difference holds the truth, on simulated studies: docs/report.md.

python docs/results/interval_coverage.py
"""

from __future__ import annotations

import numpy as np

from rankwright.study.statistics import Difference

STUDIES, ROWS, DRAWS = 2000, 200, 1000
# Standard deviations of a seed's effect, a row's, and what is left.
CAUSES = {
    "seeds": (0.05, 0.0, 0.1),
    "rows": (0.0, 0.4, 0.1),
    "the rest": (0.0, 0.0, 0.4),
    "all three": (0.02, 0.3, 0.3),
}


def main() -> None:
    """Print a row for every cause and number of seeds."""
    rng = np.random.default_rng(1)
    counts = rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), DRAWS).astype(float)
    for name, (of_seed, of_row, rest) in CAUSES.items():
        for seeds in (2, 3, 5, 10):
            held = np.zeros(2)
            for _ in range(STUDIES):
                table = of_seed * rng.normal(size=(seeds, 1)) + of_row * rng.normal(size=ROWS)
                table = table + rest * rng.normal(size=(seeds, ROWS))
                found = Difference.of(table.mean(axis=1).tolist(), counts @ table.T / ROWS, ROWS)
                both = (found.over_rows, found.over_seeds)
                held += [e is not None and e.low <= 0 <= e.high for e in both]
            shares = "  ".join(f"{share:.3f}" for share in held / STUDIES)
            print(f"{name:10} {seeds:2} seeds: seeds and rows, seeds alone  {shares}", flush=True)


if __name__ == "__main__":
    main()
