"""A study's runs in the layout of PEFT's method comparison, for its dashboard.

The layout is that of `method_comparison` in huggingface/peft: one JSON file per run with
`run_info`, `train_info` and `meta_info`. Its "test accuracy" is the primary metric here. It has one
metric and no seeds, so the seed is part of the experiment's name. A run records only the peak
memory of its steps, which is also written as the mean and the 99th percentile. Tokens are not
counted and are written as 0.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from rankwright.job.files import write_json
from rankwright.methods import Full
from rankwright.study.records.folder import StudyFolder
from rankwright.study.records.records import RunRecord

BYTES_OF_A_FLOAT = 4
READ = ("peft", "transformers", "datasets", "torch", "bitsandbytes")
"""Packages whose versions the dashboard shows; null for a package that the run did not use."""


def write_peft_layout(folder: StudyFolder, output: Path | None = None) -> list[Path]:
    """Write a file for every finished run.

    Args:
        folder: The study.
        output: Folder in which every task gets a subfolder; DIR/peft by default.

    Returns:
        The files, in the order of the plan.
    """
    written = []
    for record in folder.records():
        path = (output or folder.path / "peft") / record.task.replace("/", "-")
        path = path / f"{record.name}.json"
        write_json(path, peft_layout(folder, record))
        written.append(path)
    return written


def peft_layout(folder: StudyFolder, record: RunRecord) -> dict[str, Any]:
    """Return one run in the layout of PEFT's comparison."""
    cost, versions = record.cost, record.versions
    adapter = folder.run(record.name) / "adapter"
    return {
        "run_info": {
            "created_at": record.finished,
            "total_time": cost.total_seconds,
            "experiment_name": f"{record.label}/{record.task}-seed{record.seed}",
            "peft_branch": "main",
            "train_config": {
                "model_id": record.model,
                "seed": record.seed,
                "max_steps": cost.steps,
                "metric": record.metric,
                "method": record.method,
                "hyperparameters": record.hyperparameters,
                **record.options,
            },
            "peft_config": _peft_config(record, adapter),
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": cost.peak_memory_bytes,
            "accelerator_memory_max": cost.peak_memory_bytes,
            "accelerator_memory_reserved_99th": cost.peak_memory_bytes,
            "train_time": cost.training_seconds,
            "file_size": _file_size(record, adapter),
            "num_trainable_params": cost.trainable_parameters,
            "status": "success",
            "metrics": _metrics(record),
        },
        "meta_info": {
            "package_info": {
                f"{name}-version": versions.get(name) for name in dict.fromkeys((*versions, *READ))
            },
            "system_info": {"device": record.device, "machine": platform.machine()},
        },
    }


def _metrics(record: RunRecord) -> list[dict[str, Any]]:
    """Return the points of the learning curve and, as the last entry, the result."""
    batch = record.options.get("batch_size", 16) * record.options.get("accumulation", 1)
    curve = [
        {
            "step": point.step,
            "valid accuracy": point.metric,
            "train loss": point.loss,
            "train samples": point.step * batch,
        }
        for point in record.curve
        if point.loss is not None
    ]
    last = {
        "step": record.cost.steps,
        "test accuracy": record.value,
        "train loss": curve[-1]["train loss"] if curve else None,
        "train samples": record.cost.steps * batch,
        "train total tokens": 0,
    }
    if record.forgetting is not None:
        last["forgetting"] = record.forgetting.after - record.forgetting.before
    return [*curve, last]


def _peft_config(record: RunRecord, adapter: Path) -> dict[str, Any] | None:
    """Return the adapter's own configuration; None stands for full fine-tuning."""
    if record.method == Full.name:
        return None
    file = adapter / "adapter_config.json"
    if not file.exists():
        return {"peft_type": "LORA"}
    config: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return config


def _file_size(record: RunRecord, adapter: Path) -> int:
    """Return the bytes of the weights; an adapter that was not kept is counted as float32."""
    file = adapter / "adapter_model.safetensors"
    stored = record.cost.stored_parameters * BYTES_OF_A_FLOAT
    return file.stat().st_size if file.exists() else stored
