"""A task of every kind on twenty rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

KINDS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "sequence_classification": (
        {"label_column": "y"},
        [{"text": f"w{i} w{i + 1}", "y": "ab"[i % 2]} for i in range(20)],
    ),
    "regression": (
        {"label_column": "y"},
        [{"text": f"w{i} w{i + 1}", "y": i / 7} for i in range(20)],
    ),
    "multi_label": (
        {"label_column": "y"},
        [{"text": f"w{i} w{i + 1}", "y": ["a", "b"][: i % 3]} for i in range(20)],
    ),
    "token_classification": (
        {"tokens_column": "t", "tags_column": "y"},
        [{"t": [f"w{i}", "w1"], "y": ["B-x", "I-x" if i % 2 else "O"]} for i in range(20)],
    ),
    "causal_lm": (
        {
            "prompt_column": "p",
            "completion_column": "c",
            "metrics": ["bleu", "loss_per_token"],
            "max_new_tokens": 4,
        },
        [{"p": f"w{i}", "c": f"w{i + 1} w{i + 2}"} for i in range(20)],
    ),
    "multiple_choice": (
        {},
        [{"question": f"w{i}", "choices": ["w1", f"w{i} w2"], "label": i % 2} for i in range(20)],
    ),
}


def task_file(kind: str, folder: Path) -> str:
    """Write a task of that kind on twenty rows; return its file."""
    options, rows = KINDS[kind]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = folder / "words.yaml"
    values = {"kind": kind, "train": data.name, "validation_share": 0.4, **options}
    task.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(task)
