"""What rankwright's Trainer adds to the plain one, and how long the command takes to start.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --rounds 3 --processes 3   # a quick look

The same LoRA model is trained by `transformers.Trainer` and by ours, by turns in one process, and
by the plain Trainer with PEFT's own layers for scale: processor time from the end of a step to the
end of the next, data loading and all. Once on the shape of MiniLM, and on a BERT of one layer,
whose steps are next to nothing: there the difference in ms is the engine's alone. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from benchmarks.shapes import SHAPES, Shape
from benchmarks.variants import shared
from rankwright.methods import LoRA
from rankwright.training import Trainer

SIDES = ("plain Trainer, PEFT's layers", "plain Trainer", "rankwright's Trainer")


def _tiny() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=100,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )


MODELS = {
    "minilm": (SHAPES["minilm"], 8),
    "tiny": (Shape("a BERT of one layer, 4 x 8 tokens", _tiny, 4, 8), 100),
}
"""Shape, and steps of a turn."""


class Clock(TrainerCallback):
    """Processor time between the ends of steps, ms."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self._last = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        now = time.process_time_ns()
        if self._last:
            self.ms.append((now - self._last) / 1e6)
        self._last = now


def turn(side: str, base: Any, shape: Shape, steps: int, folder: str) -> float:
    """Mean processor time of a step, ms; the first is left out."""
    arguments = transformers.TrainingArguments(
        folder,
        max_steps=steps + 1,
        per_device_train_batch_size=shape.rows,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    ids = torch.arange(64 * shape.length).reshape(64, shape.length) % base.config.vocab_size
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    data = Dataset.from_dict({name: column.tolist() for name, column in rows.items()})
    method, clock = LoRA(), Clock()
    options: dict[str, Any] = {"args": arguments, "train_dataset": data, "callbacks": [clock]}
    trainer: transformers.Trainer
    if side == "rankwright's Trainer":
        trainer = Trainer(method.apply(shared(base)), method=method, **options)
    elif side == "plain Trainer":
        trainer = transformers.Trainer(method.apply(shared(base)), **options)
    else:
        config = LoraConfig(
            task_type="SEQ_CLS", target_modules="all-linear", r=method.r, lora_alpha=16
        )
        trainer = transformers.Trainer(get_peft_model(shared(base), config), **options)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return statistics.mean(clock.ms)


def measure(name: str, rounds: int) -> list[str]:
    """Lines of a table."""
    shape, steps = MODELS[name]
    torch.manual_seed(0)
    base = shape.build()
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for place in range(len(SIDES)):
                side = SIDES[(place + number) % len(SIDES)]
                found[side].append(turn(side, base, shape, steps, folder))
            print(".", end="", flush=True, file=sys.stderr)
    counted = {side: values[1:] for side, values in found.items()}
    plain = counted["plain Trainer"]
    lines = [
        f"| {shape.title} | ms a step | beside the plain Trainer | quartiles | ms more |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for side, values in counted.items():
        ratios = [one / other for one, other in zip(values, plain, strict=True)]
        more = [one - other for one, other in zip(values, plain, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        first, _, third = statistics.quantiles(more, n=4)
        lines.append(
            f"| {side} | {statistics.median(values):.2f} | {middle:.3f} | {low:.3f}-{high:.3f} "
            f"| {statistics.median(more):.2f} ({first:.2f} to {third:.2f}) |"
        )
    return [*lines, "", f"{rounds} turns of {steps} steps each.", ""]


def start_up(processes: int) -> list[str]:
    """Lines of a table of wall times, by turns of fresh processes."""
    commands = {
        "an empty Python": ["-c", "pass"],
        "`import rankwright`": ["-c", "import rankwright"],
        "`rankwright --help`": ["-m", "rankwright", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(processes):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    lines = ["| fresh process | s | least | most |", "| --- | ---: | ---: | ---: |"]
    for name, values in seconds.items():
        middle = statistics.median(values)
        lines.append(f"| {name} | {middle:.3f} | {min(values):.3f} | {max(values):.3f} |")
    return [*lines, "", f"{processes} processes each.", ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="*", default=[*MODELS], choices=MODELS)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--processes", type=int, default=10, help="of start-up; 0 for none")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    for name in given.models:
        print("\n".join(measure(name, given.rounds)), flush=True)
    if given.processes:
        print("\n".join(start_up(given.processes)), flush=True)


if __name__ == "__main__":
    main()
