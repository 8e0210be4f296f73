"""Every block of docs/guides/python.md runs, in the order of the page."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from rankwright.training.progress_bars import no_progress_bars
from saved_models import labelled_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def names(bert_folder: Path, llama_folder: Path) -> dict[str, Any]:
    """What the page takes for given."""
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    rows = labelled_rows(16)
    encoded = tokenizer([row["sentence"] for row in rows])
    labels = [int(row["topic"] == "high") for row in rows]
    data = Dataset.from_dict({**encoded, "labels": labels})
    batches = [
        {key: torch.tensor(data[start : start + 4][key]) for key in data.column_names}
        for start in range(0, len(data), 4)
    ]
    texts = Dataset.from_dict({"text": [row["sentence"] for row in rows]})
    return {
        "path": str(bert_folder),
        "causal_path": str(llama_folder),
        "train_rows": data,
        "texts": texts,
        "batches": batches,
    }


def test_every_block_runs(
    names: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), no_progress_bars():
        warnings.simplefilter("default")  # TRL's and accelerate's own are not the page's matter
        for number, block in enumerate(BLOCKS):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    for folder in ("adapter", "sft-adapter", "from-a-loop", "from-accelerate", "plain-lora"):
        assert (tmp_path / folder / "adapter_model.safetensors").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert "relative error" in capsys.readouterr().out
