"""Evaluate and export finished runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from rankwright.core.export import Form, FormName
from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.job import RunFolder, load_adapted
from rankwright.job.card import Facts, write_card
from rankwright.job.files import check_output, json_text, write_json
from rankwright.job.head import Head
from rankwright.job.paths import expanded
from rankwright.job.run_files import read_run_file
from rankwright.job.tokenizers import load_tokenizer
from rankwright.training.export import ExportError, export_adapter, export_lora, export_merged
from rankwright.training.export.source import refusal


def evaluate(
    run: str,
    *,
    split: str,
    batch_size: int,
    rows: int | None,
    edited: bool,
    output: str | None,
    notify: Callable[[str], None],
) -> int:
    """Print the metrics of a finished run as JSON, computed on the accelerator if there is one.

    Args:
        run: Folder of the run.
        split: "train", "validation" or "test".
        batch_size: Rows per batch.
        rows: Number of rows, drawn as `--eval-rows` does; None for all.
        edited: Accept files that differ from those that the run wrote.
        output: A JSON file that the metrics are also written to.
        notify: Called with each notice about the rows.

    Raises:
        MethodError: An option is out of range, or the run is unfinished or damaged.
    """
    folder = RunFolder.read(run, check=not edited)
    for name, value in (("--batch-size", batch_size), ("--rows", rows)):
        if value is not None and value < 1:
            raise MethodError(f"{name} {value}: expected at least 1")
    if output is not None:
        check_output(expanded(output))
    prepared = folder.config.make_task().prepare(load_tokenizer(folder.config.model))
    for text in prepared.notices:
        notify(text)
    model = load_adapted(folder, prepared)
    everything = f"all {len(prepared.dataset(split)):,} {split} rows are reported on"
    notify(prepared.limit_notice(split, rows) or everything)
    model.to(torch.accelerator.current_accelerator() or torch.device("cpu"))
    metrics = prepared.evaluate(model, batch_size, split=split, limit=rows)
    for name, metric in metrics.items():
        if not math.isfinite(metric):
            notify(f"{name} is {metric} on these rows; JSON has no such number, so it is null")
    print(json_text(metrics))
    if output is not None:
        write_json(expanded(output), metrics)
    return 0


class _Options(TypedDict):
    """Arguments of every export function."""

    method: Method
    overwrite: bool
    tolerance: float | None


def export_run(
    run: str,
    *,
    kind: FormName,
    rank: int | None,
    tolerance: float | None,
    edited: bool,
    output: str | None,
    overwrite: bool,
) -> int:
    """Write a finished run in another form; reloaded and checked before success is reported.

    Args:
        run: Folder of the run.
        kind: "adapter" (as trained), "lora" (plain LoRA) or "merged" (the full model).
        rank: Rank of the plain LoRA; None for an exact one, where there is one.
        tolerance: Largest logit difference that passes, relative to the largest logit; None for
            what the dtype of the base asks for.
        edited: Read on where a file is not what the run wrote.
        output: Folder to write; None for RUN/<kind>-export.
        overwrite: Replace what is in the folder.

    Raises:
        MethodError: An option does not fit, or the run is not finished, damaged, or cannot be
            exported in this form.
    """
    if rank is not None and kind != "lora":
        raise MethodError(f"--rank {rank}: only --as lora has a rank to choose")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise MethodError(f"--tolerance {tolerance}: expected a finite number of at least 0")
    folder = RunFolder.read(run, check=not edited)
    export = folder.method.made_of().export
    form = export.form(kind)
    if form.accuracy == "refused":  # before the model is loaded
        raise ExportError(refusal(export, kind))
    model = load_adapted(folder)
    options = _Options(method=folder.method, overwrite=overwrite, tolerance=tolerance)
    target = expanded(output) if output else folder.path / f"{kind}-export"
    tokenizer = load_tokenizer(str(folder.adapter))
    if kind == "merged":
        report = export_merged(model, target, tokenizer=tokenizer, **options)
    elif kind == "lora":
        finish = _card_writer(folder, model, tokenizer, form)
        report = export_lora(model, target, rank, finish=finish, **options)
    else:
        finish = _card_writer(folder, model, tokenizer, None)
        report = export_adapter(model, target, finish=finish, **options)
    print(report)
    return 0


def _card_writer(
    folder: RunFolder,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    lora: Form | None,
) -> Callable[[Path], None]:
    """Return a function that writes tokenizer and README beside an exported adapter.

    The files that it needs are read here, before anything is exported.

    Args:
        folder: The run.
        model: Its adapted model.
        tokenizer: Its tokenizer.
        lora: The form of a plain LoRA; None for the adapter as trained.
    """
    head = read_run_file(folder.head, Head.load)
    facts = Facts.of_run(folder, folder.outcome())

    def write(written: Path) -> None:
        tokenizer.save_pretrained(written)
        write_card(written, model, head, facts, lora)

    return write
