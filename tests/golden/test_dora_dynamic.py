"""DoRA-dynamic against `data/dora-dynamic`: recorded runs of the authors' code, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rankwright.core.loop import Loop, constant_schedule
from rankwright.layers.gated import gated_factors
from rankwright.methods import DoRADynamic
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures.allocate.allocate import AllocateState
from tanh_net import TanhNet

DATA = Path(__file__).parent / "data" / "dora-dynamic"


@dataclass(frozen=True)
class Case:
    """Settings of a recorded run, from its note."""

    dims: tuple[int, ...]
    fields: dict[str, Any]
    lr: float
    weight_decay: float


CASES = {
    "train": Case(
        dims=(7, 6, 5),
        fields={"r": 4, "start_rank": 6, "lora_alpha": 8.0, "every": 2},
        lr=0.01,
        weight_decay=0.01,
    ),
    "every_step": Case(
        dims=(5, 8, 8, 4),
        fields={
            **{"r": 2, "start_rank": 4, "lora_alpha": 4.0, "every": 1},
            **{"warm": 0.1, "cool": 0.4, "beta": 0.5, "variance": 0.0},
        },
        lr=0.02,
        weight_decay=0.0,
    ),
}


def started(case: Case, g: dict[str, Tensor], **fields: Any) -> Loop:
    """A run at the recorded start."""
    base = TanhNet(case.dims, g)
    names = [f"fc.{i}" for i in range(len(base.fc))]
    method = DoRADynamic(target_modules=names, **{**case.fields, **fields})
    run = Loop(
        *(method.apply(base), method),
        total_steps=len(g["x"]),
        # the recorded run decays the gates too, and the engine decays matrices alone
        optimizer=lambda groups: torch.optim.AdamW(
            [{**group, "weight_decay": case.weight_decay} for group in groups]
        ),
        lr=case.lr,
        schedule=constant_schedule,
        loss=lambda model, batch: (model(batch[0]) - batch[1]).square().mean(),
        targets=lambda _model, batch: batch[1].numel(),
        max_grad_norm=1.0,
    )
    with torch.no_grad():
        for i, (layer, factor) in enumerate(parts(run)):
            factor.live.copy_(g[f"init.{i}.A"])
            layer.lora_B["default"].weight.copy_(g[f"init.{i}.B"])
            factor.gate.copy_(g[f"init.{i}.c"])
    return run


def parts(run: Loop) -> list[tuple[Any, Any]]:
    layers = adapted_layers(run.model)
    return list(zip(layers.values(), gated_factors(layers, "default").values(), strict=True))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rounding", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_step_of_the_recorded_run(
    name: str, rounding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankwright.core.method.check_ranks", lambda _: None)  # rank 6 on 5 x 6
    case, g = CASES[name], load_file(DATA / f"{name}.safetensors")
    run = started(case, g, reference_rounding=rounding)
    state = run.find(AllocateState)
    assert state is not None
    for t, batch in enumerate(zip(g["x"], g["y"], strict=True), start=1):
        penalty = run.penalty()
        expected = case.fields.get("variance", 0.1) * g["trace.reg_loss"][t - 1]
        close(torch.zeros_like(expected) if penalty is None else penalty.detach(), expected)
        loss = run.train_step(batch)
        close(torch.tensor(loss, dtype=torch.float64), g["trace.task_loss"][t - 1])
        scores = list(state._score.values().values())
        for i, (_, factor) in enumerate(parts(run)):
            close(factor.gate.detach(), g[f"step{t}.{i}.c"])
            close(scores[i], g[f"step{t}.{i}.score"])
        closed = sum(int((factor.gate == 0).sum()) for _, factor in parts(run))
        assert closed == int(g["trace.n_zero"][t - 1])
        assert bool(state.kept) == (t > 0 and bool(g["trace.finished"][:t].any()))
    kept = [mask.long() for mask in state.kept.values()]
    for i, (layer, factor) in enumerate(parts(run)):
        assert torch.equal(kept[i], g[f"final.{i}.keep"])
        close(factor.live.detach(), g[f"final.{i}.A"])
        close(layer.lora_B["default"].weight.detach(), g[f"final.{i}.B"])
    run.finish()
    for i, layer in enumerate(adapted_layers(run.model).values()):
        assert layer.r["default"] == int(kept[i].sum())
        close(layer.get_delta_weight("default").detach(), g[f"final.{i}.delta"])
