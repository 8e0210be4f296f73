"""The demo: BiDoRA on a built-in task, then its adapter in a process with peft alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from rankwright.cli.tables import result_table
from rankwright.errors import MethodError, TrainingError
from rankwright.job import RunFolder, TrainConfig, train
from rankwright.job.files import write_json
from rankwright.job.model_names import resolve_model
from rankwright.job.tokenizers import load_tokenizer
from rankwright.methods import BiDoRA
from rankwright.tasks import SequenceClassification
from rankwright.training.progress import progress_bar

FROZEN_ACCURACY = 0.839
"""Accuracy of logistic regression over the frozen embeddings; see docs/tasks.md."""


def demo(output: str = "runs/demo", seed: int = 0) -> int:
    """Fine-tune all-MiniLM-L6-v2 with BiDoRA on `stdlib-docs`, offline.

    Args:
        output: Folder of the run; an earlier demo in it is replaced.
        seed: Seed of all random numbers.

    Raises:
        MethodError: The folder holds another run.
        TrainingError: The run was stopped, or the accuracy differs with peft alone.
    """
    console = Console(stderr=True)
    config = TrainConfig(
        model="minilm", task="stdlib-docs", output=output, seed=seed,
        learning_rate=2e-3, head_learning_rate=3e-2, steps=280, batch_size=16, max_length=32,
    )  # fmt: skip
    method = BiDoRA(unroll_steps=4, search_fraction=0.2, retrain_from="warm")
    if (Path(output) / "run.yaml").exists():
        _remove_earlier(RunFolder.read(output, check=False), config)
    console.print("which standard-library package is this docstring from?")
    with progress_bar(console) as bar:
        folder, result = train(config, method, callback=bar)
    if result.interrupted:
        raise TrainingError("stopped by a signal; the next demo starts anew")
    Console().print(result_table(result))
    accuracy = result.after["accuracy"]
    print(f"logistic regression over the frozen embeddings: {FROZEN_ACCURACY}")
    print(f"adapter: {folder.adapter}")
    folder.check()
    alone = accuracy_with_peft_alone(folder)
    print(f"accuracy in a process that imports peft and not rankwright: {alone:.4f}")
    if abs(alone - accuracy) > 1e-9:
        raise TrainingError(
            f"the adapter gives accuracy {alone} with peft alone, {accuracy} here; they must agree"
        )
    return 0


def _remove_earlier(found: RunFolder, config: TrainConfig) -> None:
    """Delete an earlier demo; refuse to delete any other run."""
    if replace(found.config, seed=config.seed, output=config.output) != config:
        raise MethodError(
            f"{found.path} holds a run that is not this demo; choose another --output, or delete it"
        )
    shutil.rmtree(found.path)


def accuracy_with_peft_alone(folder: RunFolder) -> float:
    """Compute the accuracy of a saved classifier in a process that cannot import rankwright."""
    task = folder.config.make_task()
    assert isinstance(task, SequenceClassification)
    prepared = task.prepare(load_tokenizer(folder.config.model))
    rows = [
        {
            "text": row[task.text_column],
            "label": prepared.model_kwargs["label2id"][row[task.label_column]],
        }
        for row in prepared.rows["validation"]
    ]
    request = folder.path / "peft_alone.json"
    write_json(
        request,
        {
            "base": resolve_model(folder.config.model),
            "adapter": str(folder.adapter),
            "num_labels": len(prepared.model_kwargs["label2id"]),
            "max_length": folder.config.max_length,
            "rows": rows,
        },
    )
    script = Path(__file__).with_name("peft_alone.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(request)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise TrainingError(f"the adapter does not load with peft alone:\n{done.stderr}")
    return float(json.loads(done.stdout)["accuracy"])
