"""The progress bar gives the terminal back."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from transformers import TrainerCallback

from rankwright.core.method import Method
from rankwright.methods import BiDoRA, LoRA
from rankwright.training.progress import BEFORE, RichProgress, progress_bar
from trainers import build_trainer

HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


class _Interrupt(TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_cursor_comes_back(tmp_path: Path, interrupted: bool) -> None:
    screen = io.StringIO()
    trainer = build_trainer(LoRA(), "bert", tmp_path, max_steps=1)
    with progress_bar(Console(file=screen, force_terminal=True)) as bar:
        trainer.add_callback(bar(trainer))
        if interrupted:
            trainer.add_callback(_Interrupt())
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            trainer.train()
    written = screen.getvalue()
    assert written.count(HIDDEN) == 1
    assert written.rindex(SHOWN) > written.rindex(HIDDEN)


class _Evaluate(TrainerCallback):
    """After every second step, before which a line has time to be drawn."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        time.sleep(0.25)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_evaluate = state.global_step % 2 == 0


def screen_of(
    folder: Path, method: Method, *, terminal: bool, width: int = 120, **arguments: Any
) -> str:
    """The output while a method trains."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=width)
    trainer = build_trainer(method, "bert", folder, **{"logging_steps": 1, **arguments})
    trainer.eval_dataset = trainer.train_dataset
    trainer.add_callback(_Evaluate())
    with progress_bar(console) as bar:
        trainer.add_callback(bar(trainer))
        trainer.train()
    return screen.getvalue()


@pytest.mark.parametrize(("width", "validation"), [(80, ""), (120, r", validation loss \S+")])
def test_a_terminal_gets_one_line_with_the_time_left(
    tmp_path: Path, width: int, validation: str
) -> None:
    written = screen_of(tmp_path, LoRA(), terminal=True, width=width, max_steps=3)
    assert written.count("\n") <= 2  # it is drawn over and over
    plain = Text.from_ansi(written.replace("\r", "\n")).plain
    lines = [line.rstrip() for line in plain.splitlines() if line.strip()]
    assert all(len(line) <= width for line in lines)
    assert BEFORE in lines[0]
    drawn = rf"train \S+ 2/3 loss \d\.\d{{4}}{validation} elapsed 0:00:\d\d left 0:0\d:\d\d"
    assert any(re.fullmatch(drawn, line) for line in lines)
    assert re.search(r" 3/3 .* elapsed 0:00:\d\d$", lines[-1])


def test_a_pipe_gets_a_line_for_every_loss_and_every_evaluation(tmp_path: Path) -> None:
    written = screen_of(tmp_path, LoRA(), terminal=False, max_steps=4)
    lines = written.splitlines()
    steps = [line.split(",")[0] for line in lines]
    assert steps == [
        "train: step 1/4", "train: step 2/4", "train: step 2/4", "train: step 3/4",
        "train: step 4/4", "train: step 4/4",
    ]  # fmt: skip
    assert re.fullmatch(r"train: step 1/4, loss \d\.\d{4}", lines[0])
    assert re.fullmatch(r"train: step 2/4, validation loss \d\.\d{4}", lines[2])


def test_the_time_left_is_that_of_the_passes_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four search steps of three passes, four of one: after the search a quarter is left."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    trainer = build_trainer(BiDoRA(search_fraction=0.5), "bert", tmp_path, max_steps=8)
    seen: list[str] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock[0] += 30.0 if len(seen) < 4 else 10.0
            seen.append(progress._left())

    progress = RichProgress(trainer.run, Console(file=io.StringIO()))
    trainer.add_callback(Watch())
    trainer.callback_handler.callbacks.insert(0, progress)
    trainer.train()
    assert seen[3] == "left 0:00:40"
    assert seen[-1] == "left 0:00:00"
