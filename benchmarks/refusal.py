"""Processor time from `rankwright train --data bad.csv` to its refusal, of one or several builds.

    python -m benchmarks.refusal [SRC ...]

SRC is the `src` folder of a checkout; by default that of this one.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, BAD, TIMES = 2000, 1000, 5
OPTIONS = ("--model", "minilm", "--label-column", "label", "--validation-share", "0.2")


def seconds(source: Path, folder: Path) -> float:
    """User and system time of one refusal.

    Args:
        source: Where `rankwright` is imported from.
        folder: Holds `bad.csv`.
    """
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "rankwright", "train", "--data", "bad.csv", *OPTIONS]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode != 1 or f"bad.csv:{BAD + 2}: ".encode() not in ended.stderr:
        sys.exit(ended.stderr.decode())
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the median and the extremes of every build, after one run that fills the caches."""
    sources = [Path(name).resolve() for name in sys.argv[1:] or ["src"]]
    with tempfile.TemporaryDirectory() as name:
        rows = [f"text {number},{number % 2}" for number in range(ROWS)]
        rows[BAD] = ",1"
        Path(name, "bad.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        for source in sources:
            times = [seconds(source, Path(name)) for _ in range(TIMES + 1)][1:]
            median = statistics.median(times)
            print(f"{source}: {median:.2f} s ({min(times):.2f}-{max(times):.2f})")


if __name__ == "__main__":
    main()
