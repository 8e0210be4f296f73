"""Every configuration and every task of examples/ trains, on a few rows in the form of its data.

Its scripts are run by tests/training/test_loop_examples.py.
"""

from __future__ import annotations

import gzip
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from models import VOCABULARY
from rankwright.cli import main
from saved_models import save_bert

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIGS = sorted((EXAMPLES / "configs").glob("*.yaml"))
TASKS = sorted((EXAMPLES / "tasks").glob("*.yaml"))
GENERATIVE = {"e2e", "gsm8k"}
SHORT = ("--max-new-tokens", "4")
ROWS, STEPS = 40, 8


def row(task: str, number: int) -> dict[str, Any]:
    """A row with the columns and the types that the data of a task has."""
    text, other, odd = f"w{number} w2 w3", f"w{number % 7} w5", number % 2
    return {
        "cola": {"sentence": text, "label": odd},
        "e2e": {"mr": text, "ref": other, "refs": [other, "w1"]},
        "gsm8k": {"question": text, "answer": f"w{number} #### {number}"},
        "rte": {"sentence1": text, "sentence2": other, "label": odd},
        "stsb": {"sentence1": text, "sentence2": other, "label": number % 11 / 2},
        "wnut17": {"tokens": text.split(), "ner_tags": ["B-person", "I-person", "O"]},
        "own": {"text": text, "label": ("complaint", "praise")[odd]},
    }[task]


def write(file: Path, task: str) -> None:
    file.parent.mkdir(exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row(task, number)) + "\n" for number in range(ROWS))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that RANKWRIGHT_DATA names."""
    for task in (path.stem for path in TASKS):
        for split in ("train", "validation", "test"):
            write(tmp_path / task / f"{split}.jsonl.gz", task)
    monkeypatch.setenv("RANKWRIGHT_DATA", str(tmp_path))
    monkeypatch.chdir(EXAMPLES.parent)
    return tmp_path


def train(model: Path, output: Path, *options: str) -> dict[str, Any]:
    """The result of a few steps."""
    small = ("--steps", str(STEPS), "--batch-size", "4", "--eval-rows", "4", "--max-length", "24")
    named = ("--model", str(model), "--output", str(output))
    assert main(["train", *options, *named, *small]) == 0
    result: dict[str, Any] = json.loads((output / "result.json").read_text("utf-8"))
    return result


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task(path: Path, data: Path, bert_folder: Path, llama_folder: Path) -> None:
    model, options = (llama_folder, SHORT) if path.stem in GENERATIVE else (bert_folder, ())
    result = train(model, data / "run", "--method", "lora", "--task", str(path), *options)
    assert result["task"] == path.stem
    assert result["primary_metric"] in result["after"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration(path: Path, data: Path, bert_folder: Path, llama_folder: Path) -> None:
    method, _, task = path.stem.partition("-")
    write(data / "own" / "train.jsonl.gz", "own")
    rows = ("--data", str(data / "own" / "train.jsonl.gz")) if task == "own-data" else ()
    rounds = ("--method.rounds", "2") if method == "xgblora" else ()
    model, options = (llama_folder, SHORT) if task in GENERATIVE else (bert_folder, ())
    result = train(model, data / "run", "--config", str(path), *rows, *rounds, *options)
    assert result["method"] == method
    assert result["cost"]["steps"] == STEPS


def test_the_baseline_of_stdlib_docs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_bert(tmp_path / "encoder")
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=VOCABULARY, num_attention_heads=1, **size)
    BertModel(config).save_pretrained(folder)
    words = folder / "tokenizer_config.json"
    words.write_text(json.dumps({**json.loads(words.read_text("utf-8")), "model_max_length": 512}))
    script = EXAMPLES / "tasks" / "stdlib_docs_baseline.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--model", str(folder)])
    runpy.run_path(str(script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": validation accuracy 0.")[0] for line in lines[-3:]] == [
        *("C=1", "C=10", "C=100")
    ]
