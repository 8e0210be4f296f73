"""One run a method and model, watched at every step; most tests of the contract look at it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from method_table import method_named
from trainers import adapter, base_model, build_trainer, logits

Past = Callable[..., "Run"]


@dataclass
class Run:
    """A finished run.

    Attributes:
        kind: Which model.
        folder: Holds `checkpoint-1` to `checkpoint-8`.
        trainer: As training left it.
        base: Logits of the base model.
        fresh: Logits of the fresh adapter.
        enabled: Logits after every step.
        disabled: The same with the adapter disabled.
        merged: The same of a merged copy; of float64 runs only.
    """

    kind: str
    folder: Path
    trainer: Any
    base: Tensor
    fresh: Tensor
    enabled: list[Tensor] = field(default_factory=list)
    disabled: list[Tensor] = field(default_factory=list)
    merged: list[Tensor] = field(default_factory=list)

    @property
    def final(self) -> dict[str, Tensor]:
        """The adapter at the end."""
        return adapter(self.trainer.model)


class Watch(TrainerCallback):
    """Looks at the model after every step."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run, model = self.run, self.run.trainer.model
        trainable = [p.requires_grad for p in model.parameters()]
        run.enabled.append(logits(model, run.kind))
        with model.disable_adapter():
            run.disabled.append(logits(model, run.kind))
        assert trainable == [p.requires_grad for p in model.parameters()]
        if run.base.dtype == torch.float64:
            merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
            run.merged.append(logits(merged, run.kind))


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    """(method, model, double=False) -> the run, made when it is first asked for."""
    made: dict[tuple[Any, ...], Run] = {}

    def run_of(name: str, kind: str, *, double: bool = False) -> Run:
        key = name, kind, double
        if key not in made:
            made[key] = _train(*key, tmp_path_factory.mktemp(f"{name}-{kind}"))
        return made[key]

    return run_of


def _train(name: str, kind: str, double: bool, folder: Path) -> Run:
    saving = {} if double else {"save_strategy": "steps", "save_steps": 1}
    trainer = build_trainer(method_named(name), kind, folder, double=double, **saving)
    base = logits(base_model(kind, double=double), kind)
    run = Run(kind, folder, trainer, base, logits(trainer.model, kind))
    trainer.add_callback(Watch(run))
    trainer.train()
    return run
