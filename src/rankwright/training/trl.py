"""What trainers of TRL do that a method has to know of; they are told apart by name."""

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

_EVAL, _HELD_OUT = "eval", "held-out"  # names of data sets while a trainer prepares them

SERVED = {
    "AsyncDistillationTrainer": (
        "it loads its model by name and sends the weights to a vLLM server; use DistillationTrainer"
    ),
    "AsyncGRPOTrainer": (
        "it loads its model by name and sends the weights to a vLLM server; use GRPOTrainer"
    ),
    "ServerDistillationTrainer": (
        "its teacher is behind a vLLM server, with which no method has been tried; use "
        "DistillationTrainer with a teacher of its own"
    ),
}
"""Trainers that take no method, and why."""


def names(trainer_class: type) -> set[str]:
    """Names of the classes of TRL that a trainer's class is made of."""
    return {c.__name__ for c in trainer_class.__mro__ if c.__module__.startswith("trl.")}


def generates(trainer: Any) -> bool:
    """Whether a trainer makes the completions that it trains on, so that its rows are prompts."""
    known = names(type(trainer))
    if "GKDTrainer" in known:
        return bool(trainer.args.lmbda > 0 or trainer.args.seq_kd)
    return bool(known & _GENERATING)


def copies_adapter(trainer_class: type, settings: Any) -> tuple[str, str]:
    """Why a trainer without `ref_model` copies the adapter as its reference, and what to do.

    Both are empty where it does not.
    """
    known, beta = names(trainer_class), getattr(settings, "beta", 0.0)
    if "RLOOTrainer" in known:  # with beta=0 too
        return "RLOOTrainer takes an adapter for one to start from", "use GRPOTrainer with beta=0"
    if "GRPOTrainer" in known and beta:
        return f"beta is {beta}", "set beta=0, which takes no reference"
    return "", ""


def beside(eval_dataset: Any, held_out: Any) -> Any:
    """The rows to give a trainer as its evaluation's, so that it prepares held-out rows too."""
    if eval_dataset is None:
        return held_out
    named = eval_dataset if isinstance(eval_dataset, dict) else {_EVAL: eval_dataset}
    return {**named, _HELD_OUT: held_out}


def taken_apart(prepared: Any, eval_dataset: Any) -> tuple[Any, Any]:
    """What a trainer made of `beside`: rows of its evaluation and held-out rows.

    Args:
        prepared: The trainer's `eval_dataset`.
        eval_dataset: What `beside` was given.
    """
    if eval_dataset is None:
        return None, prepared
    named = {name: rows for name, rows in prepared.items() if name != _HELD_OUT}
    own = named if isinstance(eval_dataset, dict) else named[_EVAL]
    return own, prepared[_HELD_OUT]


@contextlib.contextmanager
def unmetered(trainer: Any) -> Iterator[None]:
    """Leave the trainer's own measurements as they are: losses inside are not of its steps."""
    kept = {name: getattr(trainer, name) for name in TRL_METRICS if hasattr(trainer, name)}
    for name, value in kept.items():
        setattr(trainer, name, _copied(value))
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(trainer, name, value)


def _copied(value: Any) -> Any:
    """A copy of nested dicts and lists, with the same leaves."""
    if isinstance(value, dict):
        copied = value.copy()  # of the same class: they have defaults
        copied.update({key: _copied(item) for key, item in value.items()})
        return copied
    return list(value) if isinstance(value, list) else value
