"""BeamLoRA against `data/beamlora`: recorded runs of the authors' code, event by event."""

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
from rankwright.methods import BeamLoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures.beam import BeamState
from tanh_net import TanhNet

DATA = Path(__file__).parent / "data" / "beamlora"


@dataclass(frozen=True)
class Case:
    """Settings of a recorded run, from its note."""

    dims: tuple[int, ...]
    fields: dict[str, Any]
    lr: float
    events: tuple[int, ...]


CASES = {
    "train": Case(
        dims=(6, 7, 5),
        fields={"r": 6, "lora_alpha": 12.0, "every": 4, "top_p": 0.8, "until": 14 / 20},
        lr=0.01,
        events=(4, 8, 12, 16),
    ),
    "three_layers": Case(
        dims=(5, 6, 6, 4),
        fields={"r": 8, "lora_alpha": 8.0, "every": 6, "top_p": 0.85, "until": 1.0},
        lr=0.008,
        events=(6, 12, 18, 24),
    ),
}


def started(case: Case, g: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Loop:
    """A run at the recorded start, with the recorded pairs of slots and sources."""
    # ranks of the recorded run are larger than its layers
    monkeypatch.setattr("rankwright.core.method.check_ranks", lambda _: None)
    base = TanhNet(case.dims, g)
    names = [f"fc.{i}" for i in range(len(base.fc))]
    method = BeamLoRA(target_modules=names, moments="keep", **case.fields)
    run = Loop(
        *(method.apply(base), method),
        total_steps=len(g["x"]),
        lr=case.lr,
        schedule=constant_schedule,
        loss=lambda model, batch: (model(batch[0]) - batch[1]).square().mean(),
        targets=lambda _model, batch: batch[1].numel(),
    )
    with torch.no_grad():
        for i, layer in enumerate(adapted_layers(run.model).values()):
            layer.lora_A["default"].live.copy_(g[f"init.{i}.A"])
    state = run.find(BeamState)
    copy = BeamState._copy

    def recorded(name: str, slots: Tensor, sources: Tensor) -> None:
        given = g[f"event{run.step + 1}.{name[-1]}.src"][slots]
        assert sorted(given.tolist()) == sorted(sources.tolist())
        copy(state, name, slots, given)  # type: ignore[arg-type]

    monkeypatch.setattr(state, "_copy", recorded)
    return run


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected.view_as(actual), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_every_event_of_the_recorded_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, g = CASES[name], load_file(DATA / f"{name}.safetensors")
    run = started(case, g, monkeypatch)
    for t, batch in enumerate(zip(g["x"], g["y"], strict=True), start=1):
        loss = run.train_step(batch)
        close(torch.tensor(loss, dtype=torch.float64), g["trace.loss"][t - 1])
        if t not in case.events:
            continue
        for i, (layer_name, factor) in enumerate(gated_factors(run.layers, "default").items()):
            B = run.layers[layer_name].lora_B["default"].weight
            for key, p in (("A", factor.live), ("B", B), ("s", factor.gate)):
                close(p.detach(), g[f"event{t}.{i}.{key}"])
                moments = run.optimizer_state()[p]
                close(moments["exp_avg"], g[f"event{t}.{i}.m1_{key}"])
                close(moments["exp_avg_sq"], g[f"event{t}.{i}.m2_{key}"])
    replaced = sum(int(g[key].sum()) for key in g if key.endswith(".mask"))
    assert run.metrics["replaced_ranks"] == replaced
    for i, layer in enumerate(adapted_layers(run.model).values()):
        close(layer.get_delta_weight("default").detach(), g[f"final.{i}.delta"])
