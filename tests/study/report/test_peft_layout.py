"""PEFT's layout has every field that its dashboard reads, with the right types."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from rankwright.study.records.folder import StudyFolder
from rankwright.study.report.peft_layout import write_peft_layout

# What method_comparison/processing.py of huggingface/peft takes from a file, by its own dtypes.
RUN = {"experiment_name": "string", "total_time": float, "peft_branch": "string"}
TRAIN = {
    "accelerator_memory_reserved_avg": int,
    "accelerator_memory_max": int,
    "accelerator_memory_reserved_99th": int,
    "train_time": float,
    "file_size": int,
    "num_trainable_params": int,
}
LAST = {
    "test accuracy": float,
    "train loss": float,
    "train samples": int,
    "train total tokens": int,
}
PACKAGES = ("peft", "transformers", "datasets", "torch", "bitsandbytes")


def test_every_run_has_the_fields_that_the_dashboard_reads(study: StudyFolder) -> None:
    files = write_peft_layout(study)
    records = study.records()
    assert len(files) == len(records) > 0
    rows = []
    for file, record in zip(files, records, strict=True):
        run = json.loads(file.read_text("utf-8"), parse_constant=pytest.fail)
        info, train, meta = run["run_info"], run["train_info"], run["meta_info"]
        assert train["status"] == "success"
        assert info["train_config"]["model_id"] == record.model
        peft_type = info["peft_config"]["peft_type"] if info["peft_config"] else "full-finetuning"
        assert (peft_type == "full-finetuning") == (record.method == "full")
        assert {f"{name}-version" for name in PACKAGES} <= {*meta["package_info"]}
        assert "system_info" in meta
        last = train["metrics"][-1]
        assert last["test accuracy"] == record.value
        steps = [point["step"] for point in train["metrics"]]
        assert steps == sorted(steps)
        rows.append({
            **{name: info[name] for name in RUN},
            **{name: train[name] for name in TRAIN},
            **{name: last[name] for name in LAST},
            "created_at": info["created_at"],
        })  # fmt: skip
    frame = pd.DataFrame(rows).astype({**RUN, **TRAIN, **LAST})
    assert pd.to_datetime(frame["created_at"]).notna().all()
    assert frame["experiment_name"].is_unique
