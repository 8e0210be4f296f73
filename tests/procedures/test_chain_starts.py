"""A chain that starts at factors of the weights: OLoRA's or PiSSA's start, noise, and boosters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from models import batch, causal_rows, rows_for, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop
from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.inits import Olora, Pissa
from rankwright.layers.stacked.layer import Stack
from rankwright.methods import COLA, LoRA, OLoRA, RACLoRA, XGBLoRA
from rankwright.peft_layers.weight_change import weight_change
from rankwright.procedures import Chain, Perturbation
from trainers import adapter, base_model, build_trainer, logits

STEPS = 6
FIELDS: dict[str, Any] = {"r": 2, "lora_alpha": 4.0}


def chain(**fields: Any) -> Chain:
    """Three rounds of two steps on one of the three layers each, unless told otherwise."""
    return Chain(**{"rounds": 3, "layers_per_round": 1, "selection": "round_robin", **fields})


def method(init: Any = None, noise: float = 0.0, **fields: Any) -> Method:
    noisy = [Perturbation(rho=noise)] if noise else []
    own = {name: fields.pop(name) for name in ("r", "lora_alpha", "lora_dropout") if name in fields}
    made = LoRA(**FIELDS | own).with_parts(procedure=[*noisy, chain(**fields)])
    return made.with_parts(init=Olora() if init is None else init)


def loop(made: Method, model: nn.Module | None = None, steps: int = STEPS) -> Loop:
    base = tiny_llama().double() if model is None else model
    return Loop(made.apply(base, seed=3), made, total_steps=steps, lr=1e-2, seed=5)


def step(run: Loop, number: int) -> None:
    run.train_step(batch(causal_rows(4, seed=number)))


def chain_state(run: Any) -> Any:
    return list(run.procedure.members())[-1]


def stacks(run: Any) -> dict[str, Stack]:
    return chain_state(run).boosters.stacks


def changes(run: Loop) -> dict[str, Tensor]:
    return {name: weight_change(layer, "default") for name, layer in run.layers.items()}


@torch.no_grad()
def output(model: nn.Module) -> Tensor:
    training = model.training
    found: Tensor = model.eval()(**batch(causal_rows(3, seed=99))).logits
    model.train(training)
    return found


# Where it starts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("init", [Olora(), Pissa()], ids=["olora", "pissa"])
@pytest.mark.parametrize("half", [False, True])
def test_it_starts_as_the_base_bit_for_bit(init: Any, half: bool) -> None:
    base = tiny_llama().bfloat16() if half else tiny_llama()
    expected = output(base)
    run = loop(method(init), base)
    assert torch.equal(output(run.model), expected)
    run.begin(STEPS)  # a round is chosen: two of three layers have their start still before them
    assert torch.equal(output(run.model), expected)
    assert sum(stack.A.selected for stack in stacks(run).values()) == len(stacks(run)) / 3


def test_one_round_on_all_layers_is_olora() -> None:
    runs = [loop(method(rounds=1, layers_per_round=None)), loop(OLoRA(**FIELDS))]
    for number in range(STEPS):
        for run in runs:
            step(run, number)
    both = [get_peft_model_state_dict(run.model) for run in runs]
    assert same_bits(*both)


def test_a_layer_is_the_base_until_it_is_chosen_and_starts_at_its_factors() -> None:
    run = loop(method(lora_dropout=0.3))
    untouched = set(stacks(run))
    for number in range(STEPS):
        first_of_round = number % 2 == 0
        if number == 0:
            run.begin(STEPS)
            run._begun = True
        chosen = {name for name, stack in stacks(run).items() if stack.A.selected}
        if first_of_round:
            for name in chosen & untouched:
                stack = stacks(run)[name]
                A, B = Olora().factors(stack.layer.get_base_layer().weight, 2, stack.scaling)
                torch.testing.assert_close(stack.A.live.detach(), A)
                torch.testing.assert_close(stack.B.live.detach(), B)
        untouched -= chosen
        step(run, number)
        for name, change in changes(run).items():
            largest = float(change.abs().max())
            assert (largest <= 1e-15) == (name in untouched), name
    assert not untouched


def test_a_layer_that_waits_computes_its_base_alone_even_under_dropout() -> None:
    run = loop(method(lora_dropout=0.5))
    run.begin(STEPS)
    run.model.train()
    for stack in stacks(run).values():
        x = torch.randn(3, stack.layer.in_features, dtype=torch.float64)
        same = torch.equal(stack.layer(x), stack.layer.get_base_layer()(x))
        assert same != stack.A.selected


def test_two_rounds_with_one_start_by_hand() -> None:
    """Round 1 trains OLoRA's pair, round 2 a fresh booster; nothing else is added to W."""
    made = method(rounds=2, layers_per_round=None)
    run = loop(made, steps=4)
    for number in range(2):
        step(run, number)
    after_first = changes(run)
    (name, stack), *_ = stacks(run).items()
    A0, B0 = Olora().factors(stack.layer.get_base_layer().weight, 2, stack.scaling)
    torch.testing.assert_close(stack.A.history[:2], A0)
    torch.testing.assert_close(stack.B.history[:, :2], -B0)
    trained = stack.B.history[:, 2:] @ stack.A.history[2:]
    torch.testing.assert_close(after_first[name], stack.scaling * (trained - B0 @ A0))
    step(run, 2)
    live = stack.scaling * (stack.B.live @ stack.A.live).detach()
    torch.testing.assert_close(changes(run)[name], after_first[name] + live)


@pytest.mark.parametrize("layers_per_round", [None, 1])
def test_shrinkage_shrinks_the_change_and_not_the_start(layers_per_round: int | None) -> None:
    runs = [
        loop(method(shrinkage=x, rounds=2, layers_per_round=layers_per_round)) for x in (1, 0.5)
    ]
    for number in range(3):  # the first round has three steps; nothing is shrunk before its end
        for run in runs:
            step(run, number)
    whole, shrunk = map(changes, runs)
    assert any(float(change.abs().max()) > 1e-4 for change in whole.values())
    for name, change in whole.items():
        torch.testing.assert_close(shrunk[name], change / 2, rtol=0, atol=1e-14)


# What is counted ---------------------------------------------------------------------------------


def test_companions_count_as_stored_and_not_as_rank() -> None:
    run = loop(method(), tiny_llama())
    for number in range(STEPS):
        assert run.metrics.get("mean_rank", 0) == pytest.approx(2 * (number // 2) / 3)
        step(run, number)
    assert run.metrics["mean_rank"] == 2
    stored = sum(t.numel() for t in get_peft_model_state_dict(run.model).values())
    assert run.metrics["stored_parameters"] == stored
    assert all(stack.rank == 4 for stack in stacks(run).values())


@pytest.mark.parametrize("mode", ["fold", "recompress"])
def test_companions_do_not_count_against_the_cap(mode: str) -> None:
    run = loop(method(mode=mode, rank_cap=3, layers_per_round=None))
    for number in range(4):
        step(run, number)
        companions = chain_state(run).boosters.companion.values()
        acted = any(stack.A.folded for stack in stacks(run).values()) or not any(companions)
        assert acted == (number == 3)  # two finished boosters are one more than the cap


def test_recompressing_takes_the_companion_into_the_sum() -> None:
    whole = loop(method(layers_per_round=None))
    capped = loop(method(layers_per_round=None, mode="recompress", rank_cap=2))
    for number in range(4):
        step(whole, number)
        step(capped, number)
    for name, change in changes(whole).items():
        U, S, Vh = torch.linalg.svd(change)
        best = (U[:, :2] * S[:2]) @ Vh[:2]
        torch.testing.assert_close(changes(capped)[name], best, rtol=0, atol=1e-12)
    assert capped.metrics["mean_rank"] == 2


def test_folding_keeps_the_function() -> None:
    runs = [loop(method(layers_per_round=None, mode=m, rank_cap=1)) for m in ("history", "fold")]
    for number in range(STEPS):
        for run in runs:
            step(run, number)
        torch.testing.assert_close(*[output(run.model) for run in runs], rtol=0, atol=1e-10)


def test_a_rank_for_every_round() -> None:
    run = loop(method(ranks=[1, 2, 1], layers_per_round=1))
    expected = output(run.model)
    run.begin(STEPS)
    run._begun = True
    assert {stack.rank for stack in stacks(run).values()} == {2}  # a booster of 1, and companion
    torch.testing.assert_close(output(run.model), expected, rtol=0, atol=1e-12)
    for number in range(STEPS):
        step(run, number)
    assert sorted({stack.rank for stack in stacks(run).values()}) == [2, 4]


# Saved, resumed, exported ------------------------------------------------------------------------

EVERYTHING = {
    "olora+flat+chain": method(Olora(), 0.3),
    "pissa+flat+chain": method(Pissa(niter=2), 0.3),
    "olora+xgblora": XGBLoRA(r=1, rounds=3, layers_per_round=1, selection="round_robin").with_parts(
        init=Olora(), procedure=Perturbation(rho=0.3)
    ),
    "olora+cola": COLA(r=2, ranks=[2, 1, 1]).with_parts(init=Olora()),
}
everything = pytest.mark.parametrize("name", EVERYTHING)


@everything
def test_plain_peft_loads_every_step(name: str, tmp_path: Path) -> None:
    run = loop(EVERYTHING[name], tiny_llama())
    for number in range(STEPS):
        step(run, number)
        run.model.save_pretrained(tmp_path / str(number))
        loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / str(number))
        distance = float((output(loaded) - output(run.model)).abs().max())
        assert distance <= 3e-6, number
        with run.model.disable_adapter():
            assert torch.equal(output(run.model), output(tiny_llama()))
    run.finish()


@everything
def test_merged_is_unmerged(name: str) -> None:
    run = loop(EVERYTHING[name])
    for number in range(STEPS):
        step(run, number)
        merged = copy.deepcopy(run.model).merge_and_unload(safe_merge=True)
        torch.testing.assert_close(output(merged), output(run.model), rtol=0, atol=1e-12)


@everything
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_loop_goes_on_to_the_same_bits(name: str, stop: int) -> None:
    def fresh() -> Loop:
        return loop(EVERYTHING[name], tiny_bert())

    whole, first, second = fresh(), fresh(), fresh()
    data = [batch(rows_for(tiny_bert(), 4, seed=number)) for number in range(STEPS)]
    for number in range(STEPS):
        whole.train_step(data[number])
        if number == stop:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        (first if number < stop else second).train_step(data[number])
    both = [get_peft_model_state_dict(run.model) for run in (whole, second)]
    assert same_bits(*both)


@everything
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_trainer_resumes_to_the_same_bits(name: str, kind: str, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": STEPS}
    whole = build_trainer(EVERYTHING[name], kind, tmp_path, **saving)
    whole.train()
    for stop in (1, 3):
        resumed = build_trainer(EVERYTHING[name], kind, tmp_path / "other", max_steps=STEPS)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
        assert same_bits(adapter(resumed.model), adapter(whole.model))
    loaded = PeftModel.from_pretrained(base_model(kind), tmp_path / "checkpoint-4")
    assert torch.isfinite(logits(loaded, kind)).all()


# What does not go together -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RACLoRA().with_parts(init=Olora()), "chain with frozen writes the first factors"),
        (lambda: method(frozen="B"), "frozen writes .* and the init olora those of the first"),
        (lambda: method(round_basis=lambda *_: None), "chain with round_basis writes the first"),
    ],
)
def test_two_starts_are_refused(make: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        make()
