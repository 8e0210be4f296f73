"""Allocation of ranks: scores, budgets, selection, the run around them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilevel_toy import batch, cross_entropy, toy
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.pruning_window import pruning_window
from rankwright.errors import MethodError
from rankwright.inits import RandomFactors
from rankwright.layers.gated import GatedLoRA, gated_factors
from rankwright.methods import AdaLoRA, DoRADynamic, LoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures import Allocate, Beam, Sparsify
from rankwright.procedures.allocate.budget import pruned_count
from rankwright.procedures.allocate.scores import Components, SensitivityScore, norm_shares
from rankwright.procedures.allocate.selection import keep_highest

FIELDS: dict[str, Any] = {
    **{"r": 2, "start_rank": 3, "lora_alpha": 6.0, "warm": 0.2, "cool": 0.3},
    **{"target_modules": ["l0", "l1"], "modules_to_save": ["head"]},
}
STEPS = 10


def run_of(kind: Any = DoRADynamic, seed: int = 0, **fields: Any) -> Loop:
    method = kind(**FIELDS | fields)
    return Loop(
        *(method.apply(toy(), seed=seed), method),
        total_steps=STEPS,
        lr=0.02,
        loss=cross_entropy,
        schedule=constant_schedule,
    )


def gates(run: Loop) -> dict[str, Tensor]:
    return {n: f.gate.detach().clone() for n, f in gated_factors(run.layers, "default").items()}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Scores -------------------------------------------------------------------------------------------


def test_the_closed_form_is_the_norm_of_the_dense_components() -> None:
    A, B, c = drawn(5, 7), drawn(6, 5, seed=1), drawn(5, seed=2)
    dense = torch.einsum("i,oi,ij->ioj", c, B, A)  # the reference's (r, out, in)
    expected = dense.square().sum((1, 2)).sqrt() / torch.linalg.matrix_norm(dense.sum(0))
    torch.testing.assert_close(norm_shares(A, B, c), expected, rtol=1e-7, atol=0)
    assert float(norm_shares(A, B, c).sum()) >= 1  # the triangle inequality


def test_shares_of_orthonormal_components() -> None:
    eye, c = torch.eye(3, dtype=torch.float64), torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    expected = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    torch.testing.assert_close(norm_shares(eye, eye, c), expected, rtol=1e-8, atol=1e-12)


def test_shares_do_not_see_how_a_component_is_scaled() -> None:
    A, B, c = drawn(4, 7), drawn(6, 4, seed=1), drawn(4, seed=2)
    u, v = drawn(4, seed=3).abs() + 0.5, drawn(4, seed=4).abs() + 0.5
    torch.testing.assert_close(
        norm_shares(u[:, None] * A, B * v, c / (u * v)), norm_shares(A, B, c)
    )


def test_shares_of_nothing_are_zero() -> None:
    assert not norm_shares(drawn(4, 7), drawn(6, 4), torch.zeros(4, dtype=torch.float64)).any()


def test_sensitivities_of_bfloat16_are_multiplied_in_float32() -> None:
    A, B, c = (nn.Parameter(drawn(*shape).bfloat16()) for shape in ((4, 7), (6, 4), (4,)))
    for p in (A, B, c):
        p.grad = drawn(*p.shape, seed=5).bfloat16()
    score = SensitivityScore({"a": Components(A, B, c)}, 0.0, 0.5)
    score.update()
    (sensitivity, *_) = score.state_dict()["sensitivity"]
    assert A.grad is not None
    assert torch.equal(sensitivity, (A.detach().float() * A.grad.float()).abs())


# Budget -------------------------------------------------------------------------------------------


def test_pruned_counts_of_the_sheet() -> None:
    found = [pruned_count("cubic_pruned", 4, k, 7) for k in range(8)]
    assert found == [1, 1, 1, 1, 1, 1, 2, 4]  # int(4 (k / 7)^3), and at least one


def test_the_curves_meet_at_the_ends_only() -> None:
    late, early = (
        [pruned_count(curve, 400, k, 10) for k in range(11)]  # type: ignore[arg-type]
        for curve in ("cubic_pruned", "cubic_kept")
    )
    assert (early[0], late[-1], early[-1]) == (0, 400, 400)
    assert all(a > b for a, b in zip(early[1:-1], late[1:-1], strict=True))
    assert (early[5], late[5]) == (350, 50)


@pytest.mark.parametrize("total", [700, 1300, 1400])
def test_the_references_rounding_loses_a_step(total: int) -> None:
    options = {"warm": 0.15, "cool": 0.5, "every": None}
    ours, reference = (
        pruning_window(total, **options, reference_rounding=rounding)  # type: ignore[arg-type]
        for rounding in (False, True)
    )
    assert ours.length == round(0.35 * total)
    assert reference.length == ours.length - 1


def test_two_steps_at_k_0_where_the_reference_starts_between_them() -> None:
    window = pruning_window(50, 0.15, 0.5, 1, reference_rounding=True)
    assert [window.position(t) for t in (6, 7, 8, 9)] == [None, 0, 0, 1]
    ours = pruning_window(50, 0.15, 0.5, 1, reference_rounding=False)
    assert [ours.position(t) for t in (7, 8, 9)] == [None, 0, 1]


def test_a_run_without_a_step_that_prunes_is_refused() -> None:
    with pytest.raises(MethodError, match="2 optimizer steps leave none"):
        pruning_window(2, 0.5, 0.45, None, reference_rounding=False)


# Selection ----------------------------------------------------------------------------------------


def test_ties_prune_exactly_the_budget_in_the_order_of_names() -> None:
    scores = {"b": torch.zeros(3), "a": torch.zeros(3)}
    kept = keep_highest(scores, 4)
    assert [*kept] == ["b", "a"]
    assert kept["a"].tolist() == [False] * 3
    assert kept["b"].tolist() == [False, True, True]


def test_every_layer_keeps_its_least_rank() -> None:
    kept = keep_highest({"a": torch.tensor([1.0, 3.0, 2.0]), "b": torch.full((3,), 9.0)}, 3, 1)
    assert kept["a"].tolist() == [False, True, False]
    assert int(kept["b"].sum()) == 2


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DoRADynamic, AdaLoRA])
def test_the_start_is_the_base_and_only_gates_move_first(kind: Any) -> None:
    run = run_of(kind, **{"variance" if kind is DoRADynamic else "orthogonality": 0.0})
    x, _ = batch(0)
    assert torch.equal(run.model(x), toy()(x))
    cross_entropy(run.model, batch(0)).backward()
    for name, layer in adapted_layers(run.model).items():
        factor = gated_factors(run.layers, "default")[name]
        assert not factor.live.grad.any()  # type: ignore[union-attr]
        assert not layer.lora_B["default"].weight.grad.any()
        assert factor.gate.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [DoRADynamic, AdaLoRA])
def test_what_is_pruned_stays_out_and_the_budget_is_exact(kind: Any) -> None:
    run, zero = run_of(kind), []
    for k in range(STEPS):
        run.train_step(batch(k))
        zero.append({name: (gate == 0).tolist() for name, gate in gates(run).items()})
    assert zero[6] == zero[7] == zero[8] == zero[9]  # the last pruning is at step 7
    assert sum(map(sum, zero[6].values())) == 2
    assert run.metrics["mean_rank"] == 2
    x, _ = batch(0)
    before = run.model(x).detach()
    run.finish()
    layers = adapted_layers(run.model)
    torch.testing.assert_close(run.model(x), before, rtol=1e-12, atol=1e-12)
    assert sum(layer.r["default"] for layer in layers.values()) == 4
    assert {layer.scaling["default"] for layer in layers.values()} == {2.0}


def test_a_pruned_component_comes_back_before_the_last_pruning() -> None:
    run = run_of(every=2)  # the first pruning is at step 2, the next one at step 4
    for k in range(2):
        run.train_step(batch(k))
    pruned = {name: gate == 0 for name, gate in gates(run).items()}
    run.train_step(batch(2))
    assert sum(int(mask.sum()) for mask in pruned.values()) == 1
    assert all(gates(run)[name][mask].all() for name, mask in pruned.items())


@pytest.mark.parametrize("kind", [DoRADynamic, AdaLoRA])
def test_resumption_at_every_step_gives_the_same_bits(kind: Any) -> None:
    whole = run_of(kind)
    for k in range(STEPS):
        whole.train_step(batch(k))
    whole.finish()
    for cut in range(1, STEPS):
        first = run_of(kind)
        for k in range(cut):
            first.train_step(batch(k))
        saved = copy.deepcopy(first.state_dict())
        again = run_of(kind, seed=7)
        again.load_state_dict(saved)
        for k in range(cut, STEPS):
            again.train_step(batch(k))
        again.finish()
        state, expected = again.model.state_dict(), whole.model.state_dict()
        assert state.keys() == expected.keys(), cut
        assert all(torch.equal(state[key], expected[key]) for key in expected), cut


@pytest.mark.parametrize("rounding", [False, True])
@pytest.mark.parametrize("steps", [10, 11, 20])  # of 11 the reference prunes last at 5, not at 6
def test_the_penalty_ends_with_the_pruning(steps: int, rounding: bool) -> None:
    method = DoRADynamic(**FIELDS | {"warm": 0.15, "cool": 0.5, "reference_rounding": rounding})
    run = Loop(
        *(method.apply(toy()), method),
        total_steps=steps,
        loss=cross_entropy,
        schedule=constant_schedule,
    )
    state: Any = run.procedure
    for k in range(steps):
        over = bool(state.kept)  # the last pruning is behind
        run.train_step(batch(k))
        assert ("penalty" in run.metrics) is not over, k + 1


def test_a_checkpoint_of_other_phases_is_refused() -> None:
    first = run_of()
    first.train_step(batch(0))
    again = run_of(cool=0.5)
    again.load_state_dict(first.state_dict())
    with pytest.raises(MethodError, match="this checkpoint cannot be resumed: its pruning"):
        again.train_step(batch(1))


def test_keeping_all_prunes_nothing() -> None:
    run = run_of(start_rank=2)
    for k in range(STEPS):
        run.train_step(batch(k))
    assert run.metrics["mean_rank"] == 2


# As a part ----------------------------------------------------------------------------------------


def test_it_plugs_onto_lora_and_brings_the_gates() -> None:
    method = LoRA(r=3, target_modules=["l0", "l1"], modules_to_save=["head"]).with_parts(
        procedure=Allocate()
    )
    run = Loop(
        *(method.apply(toy()), method),
        total_steps=STEPS,
        lr=0.02,
        loss=cross_entropy,
        schedule=constant_schedule,
    )
    for k in range(STEPS):
        run.train_step(batch(k))
    run.finish()
    assert sum(layer.r["default"] for layer in adapted_layers(run.model).values()) == 4


def test_gates_that_zero_does_not_close_are_refused() -> None:
    with pytest.raises(MethodError, match="allocate sets gates to zero"):
        LoRA().with_parts(layer=GatedLoRA(gate_map="sigmoid"), procedure=Allocate())


def test_random_factors_need_gates_of_zero() -> None:
    with pytest.raises(MethodError, match="gates have to start at zero"):
        LoRA().with_parts(layer=GatedLoRA(), init=RandomFactors())
    model = (
        LoRA(target_modules=["0"], r=2)
        .with_parts(init=RandomFactors())
        .apply(nn.Sequential(nn.Linear(4, 3)))
    )
    x = torch.ones(1, 4)
    assert torch.equal(model(x), model.get_base_model()[0].base_layer(x))


@pytest.mark.parametrize("other", [Sparsify(), Beam()])
def test_a_second_procedure_on_the_gates_is_refused(other: Any) -> None:
    with pytest.raises(MethodError, match="both decide on the gates of the ranks"):
        LoRA().with_parts(procedure=[Allocate(), other])
