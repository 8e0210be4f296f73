"""Running totals of the Trainer, kept across resumed runs.

The Trainer resets them when it resumes: its summary would cover only the steps since then, and the
first logged loss would be a mean over fewer steps than the others.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from rankwright.core.run import Run

if TYPE_CHECKING:
    from transformers import Trainer


class Totals:
    """Loss and wall time of a run, summed over the processes that resumed it.

    Steps that a crash undid are not included, nor is the time between two processes.

    Args:
        trainer: The trainer.
        run: Its run.

    Attributes:
        seconds_before: Wall time in seconds of the processes before this one.
    """

    def __init__(self, trainer: Trainer, run: Run) -> None:
        self._trainer = trainer
        self._run = run
        self._loaded: dict[str, Any] | None = None
        self._started = 0.0
        self.seconds_before = 0.0

    def begin(self) -> None:
        """Start training, or continue after `load_state_dict`."""
        self._started = time.time()
        self.seconds_before = 0.0
        state, self._loaded = self._loaded, None
        if state is None:
            return
        trainer = self._trainer
        self.seconds_before = state["seconds"]
        trainer._initial_global_step = state["first_step"]
        trainer._total_loss_scalar = state["logged_loss"]
        trainer._globalstep_last_logged = state["last_logged"]
        trainer._tr_loss = torch.tensor(state["loss"], device=trainer.args.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the totals as JSON values, averaged over processes (a collective call)."""
        trainer = self._trainer
        (loss,) = self._run.average([trainer._tr_loss.clone()])
        return {
            "seconds": self.seconds_before + time.time() - self._started,
            "first_step": trainer._initial_global_step,
            "logged_loss": trainer._total_loss_scalar,
            "last_logged": trainer._globalstep_last_logged,
            "loss": float(loss),
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Set the totals with which `begin` continues; None if the checkpoint has none."""
        self._loaded = state
