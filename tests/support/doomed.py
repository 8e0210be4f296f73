"""Training runs that end themselves with a real signal; started in processes of their own."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from method_table import method_named
from rankwright.training import checkpoint
from trainers import build_trainer

STEPS = 12
torch.set_num_threads(1)


@dataclass
class Doom:
    """A run and its end.

    Attributes:
        method: Name of the method.
        fields: Changes to its hyperparameters.
        output: Where checkpoints and the final adapter go.
        step: 0-based step in which the signal comes, after the backward pass; None: it does not.
        kill_before: "write_manifest" or "publish": SIGKILL instead when that is called the second
            time.
        signal: The signal.
        resume: Whether to go on from the newest complete checkpoint.
        save_steps: Steps between checkpoints.
        logging_steps: Steps between two losses in the log.
    """

    method: str
    output: Path
    fields: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    kill_before: str | None = None
    signal: int = signal.SIGKILL
    resume: bool = False
    save_steps: int = 2
    logging_steps: int = 1


class Executioner(TrainerCallback):
    """Sends the signal in the middle of a step."""

    def __init__(self, doom: Doom) -> None:
        self.doom = doom

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.doom.step:
            os.kill(os.getpid(), self.doom.signal)


def train(doom: Doom) -> Any:
    """Run it; whoever survives leaves an adapter and a log."""
    trainer = build_trainer(
        method_named(doom.method, **doom.fields),
        "bert",
        doom.output,
        callbacks=[Executioner(doom)],
        adapter_seed=9 if doom.resume else 3,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=doom.save_steps,
        logging_steps=doom.logging_steps,
    )
    if doom.kill_before is not None:
        _arm(doom.kill_before)
    trainer.train(resume_from_checkpoint=doom.resume)
    if not trainer.interrupted:
        trainer.model.save_pretrained(doom.output / "adapter")
    (doom.output / "interrupted").write_text(str(trainer.interrupted))
    (doom.output / "log.json").write_text(json.dumps(trainer.state.log_history))
    return trainer


def _arm(name: str) -> None:
    original, calls = getattr(checkpoint, name), []

    def armed(*args: Any, **options: Any) -> None:
        calls.append(name)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*args, **options)

    setattr(checkpoint, name, armed)
