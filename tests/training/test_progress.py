"""The progress bar gives the terminal back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import TrainerCallback

from rankwright.methods import LoRA
from rankwright.training.progress import progress_bar
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
