"""What a run notes while it trains, which changes nothing that is trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rankwright.cli.quiet import quiet
from rankwright.core.method import Method
from rankwright.job import RunFolder, RunResult, TrainConfig, train
from rankwright.job.observing import CURVE_POINTS, PHASES, evaluation_seconds
from rankwright.job.run import set_up
from rankwright.methods import BiDoRA, FlatLoRA, LoRA, XGBLoRA
from saved_models import adapter_bytes

POINTS = [2, 3, 5, 6, 8]
"""Of eight steps, as near as whole steps come to fifths."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def points(folder: RunFolder) -> list[int]:
    """The steps of the validation curve."""
    return [int(entry["step"]) for entry in folder.logged() if "eval_loss" in entry]


def without_curve(config: TrainConfig, method: Method) -> tuple[RunFolder, RunResult]:
    changed = {"output": f"{config.output}-without", "trainer": {"eval_strategy": "no"}}
    return train(dataclasses.replace(config, **changed), method)


@pytest.mark.parametrize(
    "method",
    [
        LoRA(r=2, lora_dropout=0.2),
        BiDoRA(r=2, lora_dropout=0.2),
        FlatLoRA(r=2),
        XGBLoRA(rounds=2, layers_per_round=None, lora_dropout=0.2),
    ],
    ids=lambda method: method.name,
)
def test_the_curve_changes_no_bit_and_costs_no_step(config: TrainConfig, method: Method) -> None:
    folder, result = train(config, method)
    plain, expected = without_curve(config, method)
    assert points(folder) == POINTS
    assert len(POINTS) == CURVE_POINTS
    assert points(plain) == []
    assert adapter_bytes(folder.path) == adapter_bytes(plain.path)
    assert result.after == expected.after
    assert (result.cost.steps, result.cost.passes) == (expected.cost.steps, expected.cost.passes)
    assert result.evaluation_seconds == evaluation_seconds(folder.logged()) > 0
    assert expected.evaluation_seconds == 0
    (*_, last) = [entry for entry in folder.logged() if "eval_loss" in entry]
    assert last["eval_accuracy"] == result.after["accuracy"]


class _Slow(TrainerCallback):
    """Evaluations that take a fifth of a second more."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        time.sleep(0.2)


def test_evaluations_are_in_the_time_of_a_run_and_not_in_its_cost(config: TrainConfig) -> None:
    _, result = train(config, LoRA(r=2), callback=lambda _trainer: _Slow())
    assert result.seconds > CURVE_POINTS * 0.2
    assert result.cost.training_seconds < result.seconds - CURVE_POINTS * 0.2


class _Crash(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 4:
            raise KeyboardInterrupt


def test_a_resumed_run_has_the_points_and_phases_of_a_whole_one(
    config: TrainConfig, tmp_path: Path
) -> None:
    method = BiDoRA(r=2, search_fraction=0.5)
    with pytest.raises(KeyboardInterrupt):
        train(config, method, callback=lambda _trainer: _Crash())
    folder, _ = train(config, method, resume=True)
    whole, _ = train(dataclasses.replace(config, output=str(tmp_path / "whole")), method)
    assert points(folder) == points(whole) == POINTS
    for run in (folder, whole):
        noted = [entry for entry in run.logged() if PHASES in entry]
        phases = [{"name": "search", "steps": 4}, {"name": "retrain", "steps": 4}]
        assert noted == [{"step": 0, PHASES: phases}]


def test_evaluations_of_ones_own_take_the_place_of_the_curve(config: TrainConfig) -> None:
    own = {"eval_strategy": "steps", "eval_steps": 4}
    folder, _ = train(dataclasses.replace(config, trainer=own), LoRA(r=2))
    assert points(folder) == [4, 8]


def test_a_run_of_one_step_has_one_point(config: TrainConfig) -> None:
    folder, _ = train(dataclasses.replace(config, steps=1), LoRA(r=2))
    assert points(folder) == [1]


def test_the_trainer_draws_nothing_while_it_evaluates(config: TrainConfig) -> None:
    job = set_up(config, LoRA(r=2))
    trainer = job.trainer
    state = torch.get_rng_state()
    trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), state)
    job.release()
