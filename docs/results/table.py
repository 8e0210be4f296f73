"""Print the Markdown table of a folder of runs: `python docs/results/table.py runs/first`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = (
    "task", "method", "metric", "before", "after", "test", "loss per token", "trainable", "stored",
    "steps", "passes", "step time (s)", "peak memory (MiB)",
)  # fmt: skip


def row(folder: str, result: dict[str, Any]) -> list[str]:
    """Return one run as cells; its folder is named task-method, or task-method-and-more."""
    metric, cost = result["primary_metric"], result["cost"]
    test = result["test"].get(metric)
    return [
        result["task"],
        folder.removeprefix(f"{result['task']}-"),
        metric,
        f"{result['before'][metric]:.4f}",
        f"**{result['after'][metric]:.4f}**",
        "" if test is None else f"{test:.4f}",
        loss_per_token(result),
        f"{cost['trainable_parameters']:,}",
        f"{cost['stored_parameters']:,}",
        f"{cost['steps']}",
        f"{cost['passes']:g}",
        f"{cost['median_step_seconds']:.2f}",
        f"{cost['peak_memory_bytes'] / 2**20:.0f}",
    ]


def loss_per_token(result: dict[str, Any]) -> str:
    """Return the loss on validation rows before and after training; empty if not measured."""
    before, after = (result[when].get("loss_per_token") for when in ("before", "after"))
    return "" if before is None else f"{before:.2f} → {after:.2f}"


def main(folder: str) -> None:
    """Print the table of every finished run in the folder."""
    paths = sorted(Path(folder).glob("*/result.json"))
    found = [row(path.parent.name, json.loads(path.read_text("utf-8"))) for path in paths]
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *found]
    print("\n".join("| " + " | ".join(cells) + " |" for cells in lines))


if __name__ == "__main__":
    main(sys.argv[1])
