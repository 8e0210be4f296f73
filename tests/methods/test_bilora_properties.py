"""BiLoRA's properties: competing values, permutations, levels, start."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilevel_toy import batch, cross_entropy, held_out, toy
from rankwright.core.loop import Loop, constant_schedule
from rankwright.errors import MethodError
from rankwright.layers.gated import gated_factors
from rankwright.methods import BiLoRA, LoRA
from rankwright.penalties import NearBinary

FIELDS: dict[str, Any] = {
    "r": 3,
    "lora_alpha": 6,
    "target_modules": ["l0", "l1"],
    "modules_to_save": ["head"],
}
KINDS = ("softmax", "sigmoid", "real")


def run_of(steps: int = 4, **fields: Any) -> Loop:
    method = BiLoRA(**FIELDS, **fields)
    return Loop(
        method.apply(toy()),
        method,
        total_steps=steps,
        lr=0.05,
        loss=cross_entropy,
        held_out=held_out,
        schedule=constant_schedule,
    )


def spread(run: Loop) -> None:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in run.trainable().values():
            p.add_(0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype))


def gates(run: Loop) -> dict[str, nn.Parameter]:
    return {n: f.gate for n, f in gated_factors(run.layers, "default").items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_base_with_orthonormal_rows(kind: Any) -> None:
    run = run_of(parametrisation=kind)
    x, _ = batch(0)
    assert torch.equal(run.model(x), toy()(x))
    for factor in gated_factors(run.layers, "default").values():
        eye = torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(factor.live @ factor.live.T, eye, rtol=0, atol=1e-14)
        expected = 0.5 if kind == "sigmoid" else 1.0
        torch.testing.assert_close(factor.gates, torch.full_like(factor.gate, expected))


def test_values_of_a_softmax_compete() -> None:
    run = run_of()
    spread(run)
    x, _ = batch(0)
    before = run.model(x).detach()
    cross_entropy(run.model, batch(0)).backward()
    for gate in gates(run).values():
        assert gate.grad is not None
        assert gate.grad.abs().max() > 1e-6
        assert abs(float(gate.grad.sum())) < 1e-15
    with torch.no_grad():
        for gate in gates(run).values():
            gate.add_(0.7)
    torch.testing.assert_close(run.model(x).detach(), before, rtol=1e-13, atol=1e-15)
    for factor in gated_factors(run.layers, "default").values():
        assert float(factor.gates.detach().sum()) == pytest.approx(3)
        assert bool((factor.gates > 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_retraining_under_fixed_values_resumes_bit_for_bit(kind: Any) -> None:
    def made(first: int, last: int, state: Any = None) -> Loop:
        run = run_of(6, parametrisation=kind, retrain=True, search_fraction=0.5)
        spread(run)
        if state is not None:
            run.load_state_dict(state)
        for k in range(first, last):
            run.train_step(batch(k))
        return run

    whole = made(0, 6)
    for cut in range(1, 6):
        again = made(cut, 6, copy.deepcopy(made(0, cut).state_dict()))
        for name, parameter in whole.model.named_parameters():
            assert torch.equal(parameter, again.model.get_parameter(name)), (cut, name)


def test_fixed_values_are_those_of_the_search_and_have_no_gradient() -> None:
    run = run_of(4, parametrisation="softmax", retrain=True, search_fraction=0.5)
    spread(run)
    for k in range(2):
        run.train_step(batch(k))
    for factor in gated_factors(run.layers, "default").values():
        assert not factor.gates.requires_grad
        assert torch.equal(factor.gates, 3 * torch.softmax(factor.gate, dim=0))
        assert factor.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_the_ranks_changes_nothing(kind: Any) -> None:
    run = run_of(parametrisation=kind)
    spread(run)
    x, _ = batch(0)
    before = run.model(x).detach()
    with torch.no_grad():
        for name, factor in gated_factors(run.layers, "default").items():
            order = torch.tensor([2, 0, 1])
            factor.live.copy_(factor.live[order])
            factor.gate.copy_(factor.gate[order])
            B = run.layers[name].lora_B["default"].weight
            B.copy_(B[:, order])
    torch.testing.assert_close(run.model(x).detach(), before, rtol=1e-13, atol=1e-15)


def test_known_gradient_of_a_softmax() -> None:
    theta = torch.tensor([0.0, torch.log(torch.tensor(3.0))], requires_grad=True)
    w = torch.softmax(theta, 0)
    (grad,) = torch.autograd.grad((w * torch.tensor([1.0, -1.0])).sum(), theta)
    torch.testing.assert_close(w, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(grad, torch.tensor([0.375, -0.375]))


def test_lower_steps_leave_the_values_and_upper_steps_all_else() -> None:
    run = run_of(unroll_steps=2)
    before = {n: g.detach().clone() for n, g in gates(run).items()}
    run.train_step(batch(0))
    assert all(torch.equal(before[n], g) for n, g in gates(run).items())
    lower: list[tuple[Tensor, Tensor]] = []
    original = run.step_optimizer

    def checked() -> None:
        others = [p for n, p in run.trainable().items() if not n.endswith(".gate")]
        kept = [p.detach().clone() for p in others]
        original()
        lower.extend(zip(kept, others, strict=True))

    run.step_optimizer = checked  # type: ignore[method-assign]
    run.train_step(batch(1))
    assert lower
    assert all(torch.equal(was, now) for was, now in lower)
    assert not any(torch.equal(before[n], g) for n, g in gates(run).items())


def test_decoupled_decay_leaves_the_values() -> None:
    run = run_of()
    groups = {g["role"]: g["weight_decay"] for g in run.parameter_groups(0.1, weight_decay=0.5)}
    assert groups["upper"] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 1}, 'BiLoRA.r = 1: expected at least 2 with "softmax"'),
        ({"near_binary": 1e-3}, 'BiLoRA.near_binary = 0.001: expected 0 with "softmax"'),
        ({"parametrisation": "gumbel"}, "expected softmax or sigmoid or real"),
        ({"orthogonality": -0.1}, "BiLoRA.orthogonality = -0.1: expected a number of at least 0"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        BiLoRA(**fields)


def test_a_penalty_of_the_upper_level_needs_one() -> None:
    method = LoRA(**FIELDS).with_parts(penalty=NearBinary())
    with pytest.raises(MethodError, match="near_binary is a penalty of the upper level"):
        Loop(method.apply(toy()), method, total_steps=2, loss=cross_entropy)
