"""Error messages for a step whose loss or gradient is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rankwright.training import checkpoint

if TYPE_CHECKING:
    from transformers import Trainer


def explain_not_finite(trainer: Trainer, what: str, value: float) -> str:
    """The error message for a step that was stopped before it changed the weights.

    Args:
        trainer: The trainer.
        what: The quantity that is not finite: "the loss", or "the norm of the gradient" after a
            finite loss.
        value: NaN or an infinity.
    """
    step = trainer.state.global_step
    broken = not _finite_weights(trainer)
    suspect = broken or what == "the loss"
    return (
        f"{what} at step {step} is {value}; the weights are still those before that step"
        f"{', and not all of them are finite' if broken else ''}; "
        f"{_good_checkpoint(trainer, step - 1 if suspect else step)}. {_advice(trainer, broken)}"
    )


def name_newest_checkpoint(trainer: Trainer) -> str:
    """A clause that names the newest complete checkpoint."""
    newest = checkpoint.newest_complete(Path(trainer.args.output_dir))
    if newest is None:
        return "no checkpoint has been written yet (save_steps)"
    return f"the newest checkpoint is {newest}"


def _good_checkpoint(trainer: Trainer, last: int) -> str:
    """A clause that names the newest checkpoint up to step `last`: the loss after it was finite."""
    folder, step = Path(trainer.args.output_dir), trainer.state.global_step
    good, newest = (checkpoint.newest_complete(folder, up_to=n) for n in (last, step))
    if newest is None:
        return name_newest_checkpoint(trainer)
    if good is None:
        return f"{newest} has these weights (delete it), and there is none from before"
    later = "" if good == newest else f" (delete {newest.name}, which has these weights)"
    return f"the last checkpoint with a finite loss after it is {good}{later}"


def _advice(trainer: Trainer, broken: bool) -> str:
    if broken:
        return "Lower the learning rate"
    if trainer.state.global_step == 0 or trainer.args.learning_rate == 0:
        return (
            "No step has changed the weights yet, so it is not the learning rate: check the data "
            "of this step, and that the base model's own loss is finite in "
            f"{str(trainer.model.dtype).removeprefix('torch.')}"
        )
    return "Lower the learning rate, or check the data of this step"


def _finite_weights(trainer: Trainer) -> bool:
    trained = (p for p in trainer.model.parameters() if p.requires_grad)
    return all(bool(torch.isfinite(p).all()) for p in trained)
