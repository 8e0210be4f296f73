"""What can be done with a finished run: evaluate it, export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from rankwright.job import RunFolder, load_adapted
from rankwright.job.load import load_tokenizer, write_json
from rankwright.training import export


def evaluate(
    run: str,
    split: Literal["train", "validation", "test"] = "validation",
    batch_size: int = 64,
    rows: int | None = None,
    output: str | None = None,
) -> int:
    """Metrics of a finished run.

    Args:
        run: Folder of the run.
        split: Which rows.
        batch_size: Rows of one batch.
        rows: The first so many rows only.
        output: Write the metrics to this JSON file, too.
    """
    folder = RunFolder.read(run)
    prepared = folder.config.make_task().prepare(load_tokenizer(folder.config.model))
    model = load_adapted(folder, prepared)
    metrics = prepared.evaluate(model, batch_size, split=split, limit=rows)
    print(json.dumps(metrics, indent=1))
    if output is not None:
        write_json(Path(output), metrics)
    return 0


def export_run(
    run: str,
    kind: Literal["adapter", "lora", "merged"],
    rank: int | None = None,
    output: str | None = None,
    overwrite: bool = False,
) -> int:
    """A finished run in another form; reloaded and checked before success is reported.

    Args:
        run: Folder of the run.
        kind: "adapter" (as trained), "lora" (plain LoRA) or "merged" (the full model).
        rank: Rank of the plain LoRA; None for an exact one, where there is one.
        output: Folder to write; by default RUN/<kind>-export.
        overwrite: Replace what is in the folder.
    """
    folder = RunFolder.read(run)
    tokenizer = load_tokenizer(folder.config.model)
    prepared = folder.config.make_task().prepare(tokenizer)
    model = load_adapted(folder, prepared)
    target = Path(output) if output else folder.path / f"{kind}-export"
    if kind == "lora":
        report = export.export_lora(model, target, rank, overwrite=overwrite)
    elif kind == "merged":
        report = export.export_merged(model, target, tokenizer=tokenizer, overwrite=overwrite)
    else:
        report = export.export_adapter(model, target, overwrite=overwrite)
    print(report)
    return 0
