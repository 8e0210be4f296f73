"""Properties of TRL's trainers that matter to a method, looked up by class name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rankwright.training.compat import TRL_METRICS

_GENERATING = frozenset(
    {
        "A2POTrainer",
        "DistillationTrainer",
        "GOLDTrainer",
        "GRPOTrainer",
        "IWOPDTrainer",
        "OnlineDPOTrainer",
        "RLOOTrainer",
        "SDFTTrainer",
        "SDPOTrainer",
    }
)

_EVAL, _HELD_OUT = "eval", "held-out"  # names of datasets while a trainer prepares them

UNSUPPORTED = {
    "AsyncDistillationTrainer": (
        "it loads its model by name and sends the weights to a vLLM server; use DistillationTrainer"
    ),
    "AsyncGRPOTrainer": (
        "it loads its model by name and sends the weights to a vLLM server; use GRPOTrainer"
    ),
    "ServerDistillationTrainer": (
        "its teacher runs on a vLLM server, which is untested; use DistillationTrainer with a "
        "local teacher"
    ),
}
"""Trainers that take no method, and why."""


def trl_class_names(trainer_class: type) -> set[str]:
    """Names of the TRL classes among a trainer class and its bases."""
    return {c.__name__ for c in trainer_class.__mro__ if c.__module__.startswith("trl.")}


def generates(trainer: Any) -> bool:
    """Whether a trainer generates its completions, so that its rows are prompts only."""
    known = trl_class_names(type(trainer))
    if "GKDTrainer" in known:
        return bool(trainer.args.lmbda > 0 or trainer.args.seq_kd)
    return bool(known & _GENERATING)


def explain_adapter_copy(trainer_class: type, settings: Any) -> tuple[str, str]:
    """Why a trainer without `ref_model` copies the adapter as its reference, and how to avoid it.

    Both are empty if it does not.
    """
    known, beta = trl_class_names(trainer_class), getattr(settings, "beta", 0.0)
    if "RLOOTrainer" in known:  # with beta=0 too
        return "RLOOTrainer treats an adapter as its start", "use GRPOTrainer with beta=0"
    if "GRPOTrainer" in known and beta:
        return f"beta is {beta}", "set beta=0, which needs no reference"
    return "", ""


def add_held_out(eval_dataset: Any, held_out: Any) -> Any:
    """Add held-out rows to a trainer's `eval_dataset`, so that it prepares them as well."""
    if eval_dataset is None:
        return held_out
    named = eval_dataset if isinstance(eval_dataset, dict) else {_EVAL: eval_dataset}
    return {**named, _HELD_OUT: held_out}


def split_held_out(prepared: Any, eval_dataset: Any) -> tuple[Any, Any]:
    """Split the prepared result of `beside` into evaluation rows and held-out rows.

    Args:
        prepared: The trainer's `eval_dataset`.
        eval_dataset: The `eval_dataset` that `beside` was given.
    """
    if eval_dataset is None:
        return None, prepared
    named = {name: rows for name, rows in prepared.items() if name != _HELD_OUT}
    own = named if isinstance(eval_dataset, dict) else named[_EVAL]
    return own, prepared[_HELD_OUT]


@contextlib.contextmanager
def discard_metrics(trainer: Any) -> Iterator[None]:
    """Discard changes to the trainer's metrics: losses inside belong to none of its steps."""
    kept = {name: getattr(trainer, name) for name in TRL_METRICS if hasattr(trainer, name)}
    for name, value in kept.items():
        setattr(trainer, name, _copy_nested(value))
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(trainer, name, value)


def _copy_nested(value: Any) -> Any:
    """A copy of nested dicts and lists, with the same leaves."""
    if isinstance(value, dict):
        copied = value.copy()  # keeps the class, a defaultdict
        copied.update({key: _copy_nested(item) for key, item in value.items()})
        return copied
    return list(value) if isinstance(value, list) else value
