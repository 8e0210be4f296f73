"""Replacement of weak ranks: which, by what, and the run around it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bilevel_toy import batch, cross_entropy, held_out, toy
from rankwright.core.loop import Loop, constant_schedule
from rankwright.errors import MethodError
from rankwright.layers.gated import GatedLoRA, gated_factors
from rankwright.methods import BeamLoRA, BiLoRA, LoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures import Beam
from rankwright.procedures.beam import strongest, weakest

FIELDS: dict[str, Any] = {
    **{"r": 4, "lora_alpha": 8.0, "every": 4, "top_p": 0.5},
    **{"target_modules": ["l0", "l1"], "modules_to_save": ["head"]},
}
STEPS = 12


def run_of(seed: int = 0, optimizer: Any = torch.optim.AdamW, **fields: Any) -> Loop:
    method = BeamLoRA(**FIELDS | fields)
    return Loop(
        *(method.apply(toy(), seed=seed), method),
        total_steps=STEPS,
        lr=0.02,
        optimizer=optimizer,
        loss=cross_entropy,
        schedule=constant_schedule,
    )


def tensors(run: Loop) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def watched(run: Loop, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor, Tensor]]:
    """The (layer, slots, sources) of every replacement from now on."""
    found: list[tuple[str, Tensor, Tensor]] = []
    state: Any = run.procedure
    monkeypatch.setattr(
        state, "_copy", lambda *given, do=state._copy: (found.append(given), do(*given))
    )
    return found


def test_the_start_is_the_base_and_gates_are_exactly_one() -> None:
    run = run_of()
    x, _ = batch(0)
    assert torch.equal(run.model(x), toy()(x))
    for factor in gated_factors(run.layers, "default").values():
        assert torch.equal(factor.gates, torch.ones_like(factor.gate))


# Choice -------------------------------------------------------------------------------------------


def test_the_small_case_of_the_sheet() -> None:
    """Gates of 2, 1, 1/2, 1/2: at p = 0.8 the sum of three, 3.5, is the first above 3.2."""
    gates = {"a": torch.tensor([2.0, 1.0, 0.5, 0.5])}
    assert sorted(weakest(gates, 0.8)["a"].tolist()) == [2, 3]
    assert strongest(gates["a"], 2).tolist() == [0, 1]


def test_equal_gates_lose_the_rest_of_the_mass() -> None:
    gates = {"a": torch.ones(4), "b": torch.ones(4)}
    assert sum(map(len, weakest(gates, 0.8).values())) == 8 - math.floor(0.8 * 8)


def test_all_of_the_mass_prunes_nothing_whatever_the_rounding() -> None:
    assert weakest({"a": torch.full((7,), 1 + 1e-6)}, 1.0) == {}  # their sum is above r


def test_a_layer_loses_at_most_half_of_its_ranks() -> None:
    gates = {"a": torch.tensor([0.1, 0.2, 0.3, 0.1]), "b": torch.tensor([1.3, 1.0, 1.0, 4.0])}
    assert weakest(gates, 0.5)["a"].tolist() == [0, 3]


def test_the_mass_grows_to_one() -> None:
    part = Beam(every=3000, until=24688 / 37031)
    masses = [part.mass(t, 37031) for t in range(3000, 27001, 3000)]
    expected = [0.9518, 0.9569, 0.9647, 0.9739, 0.9833, 0.9915, 0.9973, 0.9999, 1.0]
    assert [round(mass, 4) for mass in masses] == expected  # the published script's


# Runs ---------------------------------------------------------------------------------------------


def test_a_slot_gets_its_source_of_half_a_period_before(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of()
    history = []
    for k in range(3):
        run.train_step(batch(k))
        history.append(tensors(run))
    found = watched(run, monkeypatch)
    run.train_step(batch(3))
    assert found
    for name, slots, sources in found:
        A = f"{name}.lora_A.default.live"
        B = f"{name}.lora_B.default.weight"
        now, past = tensors(run), history[2]  # stored after step T / 2 + 1
        assert torch.equal(now[A][slots], past[A][sources])
        assert torch.equal(now[B][:, slots], past[B][:, sources])
        theta = now[f"{name}.lora_A.default.gate"]
        assert torch.equal(theta[slots], theta[sources])


@pytest.mark.parametrize("moments", ["copy", "zero"])
def test_moments_of_a_slot(moments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(moments=moments)
    for k in range(3):
        run.train_step(batch(k))
    past = {
        n: s["exp_avg"].clone()
        for n, p in run.trainable().items()
        if (s := run.optimizer_state()[p])
    }
    found = watched(run, monkeypatch)
    run.train_step(batch(3))
    assert found
    for name, slots, sources in found:
        A = f"{name}.lora_A.default.live"
        moment = run.optimizer_state()[run.trainable()[A]]["exp_avg"][slots]
        expected = past[A][sources] if moments == "copy" else torch.zeros_like(moment)
        assert torch.equal(moment, expected)


def test_split_gates_keep_the_mass_of_the_source() -> None:
    run = run_of(gates="split")
    for k in range(3):
        run.train_step(batch(k))
    run.train_step(batch(3))
    for factor in gated_factors(run.layers, "default").values():
        torch.testing.assert_close(factor.gates.sum().item(), 4.0)


def test_no_event_is_lora_under_gates() -> None:
    plain, beam = run_of(top_p=1.0), run_of(top_p=1.0, every=6)
    for run in (plain, beam):
        for k in range(STEPS):
            run.train_step(batch(k))
    assert all(torch.equal(a, tensors(beam)[n]) for n, a in tensors(plain).items())
    assert "replaced_ranks" not in plain.metrics


@pytest.mark.parametrize("pairing", ["order", "random"])
def test_resumption_at_every_step_gives_the_same_bits(pairing: str) -> None:
    whole = run_of(pairing=pairing)
    for k in range(STEPS):
        whole.train_step(batch(k))
    for cut in range(1, STEPS):
        first = run_of(pairing=pairing)
        for k in range(cut):
            first.train_step(batch(k))
        again = run_of(seed=7, pairing=pairing)
        again.load_state_dict(copy.deepcopy(first.state_dict()))
        for k in range(cut, STEPS):
            again.train_step(batch(k))
        expected = tensors(whole)
        assert all(torch.equal(p, expected[name]) for name, p in tensors(again).items()), cut


def test_the_adapter_is_a_plain_lora_of_the_same_rank() -> None:
    run = run_of()
    for k in range(STEPS):
        run.train_step(batch(k))
    assert {layer.r["default"] for layer in adapted_layers(run.model).values()} == {4}


@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_gates_of_an_upper_level_until_they_are_fixed(warmup: float) -> None:
    """Before a first upper step a gate has no moments; in retraining ranks are left alone."""
    fields = {name: FIELDS[name] for name in ("r", "lora_alpha", "target_modules")}
    method = BiLoRA(**fields, modules_to_save=["head"], retrain=True, warmup=warmup)
    method = method.with_parts(procedure=Beam(every=4, top_p=0.5))
    run = Loop(
        *(method.apply(toy()), method),
        total_steps=16,
        lr=0.02,
        loss=cross_entropy,
        held_out=held_out,
        schedule=constant_schedule,
    )
    replaced = []
    for k in range(16):
        run.train_step(batch(k))
        replaced.append(run.metrics["replaced_ranks"])
    assert 0 < replaced[7] == replaced[15]


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every": 5}, "every = 5"),
        ({"every": 2}, "every = 2"),
        ({"temperature": 0.0}, "temperature = 0"),
        ({"r": 1}, "r = 1"),
        ({"top_p": 0.0}, "top_p = 0"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        run_of(**fields)


def test_a_run_without_room_for_an_event_is_refused() -> None:
    with pytest.raises(MethodError, match="12 optimizer steps have no room for an event after 8"):
        run_of(every=8).train_step(batch(0))


def test_a_short_run_has_no_event_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    method = BeamLoRA(**FIELDS | {"every": None})
    run = Loop(method.apply(toy()), method, total_steps=7, loss=cross_entropy)
    run.train_step(batch(0))
    assert "beamlora replaces no rank in 7 optimizer steps" in caplog.text


def test_an_optimizer_without_moments_is_refused() -> None:
    run = run_of(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1))
    with pytest.raises(MethodError, match=r"copies Adam's moments .* SGD keeps none"):
        run.train_step(batch(0))


def test_gates_that_do_not_compete_are_refused() -> None:
    with pytest.raises(MethodError, match="beam ranks gates by their share"):
        LoRA().with_parts(layer=GatedLoRA(), procedure=Beam())
