"""The gates' thresholds around the steps, stages, pruning at the end."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chain_toy import Tanh, mean_square
from rankwright.core.loop import Loop, constant_schedule, linear_schedule
from rankwright.errors import MethodError
from rankwright.layers.gated import gated_factors
from rankwright.methods import LoRA, SoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.penalties import L1, Gram
from rankwright.procedures import Perturbation, Sparsify
from rankwright.procedures.sparsify.proximal import THRESHOLDS
from rankwright.procedures.sparsify.sparsify import xi_values

FIELDS: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": r".*\.?\d+"}


def model() -> Tanh:
    draw = torch.Generator().manual_seed(0)
    shapes = [(6, 8), (6, 6), (4, 6)]
    weights = [torch.randn(*s, generator=draw, dtype=torch.float64) / 3 for s in shapes]
    return Tanh(weights)


def batch(k: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(k + 1)
    return tuple(torch.randn(5, n, generator=draw, dtype=torch.float64) for n in (8, 4))  # type: ignore[return-value]


def run_of(method: Any, steps: int = 12, **options: Any) -> Loop:
    values = {"lr": 0.05, "schedule": constant_schedule, "loss": mean_square, **options}
    return Loop(method.apply(model()), method, total_steps=steps, **values)


def gates(run: Loop) -> dict[str, Tensor]:
    return {n: f.gate.detach().clone() for n, f in gated_factors(run.layers, "default").items()}


def factors(run: Loop) -> list[Tensor]:
    return [
        factor["default"].weight.detach().clone()
        for layer in run.layers.values()
        for factor in (layer.lora_A, layer.lora_B)
    ]


def test_without_threshold_and_with_gates_that_stand_still_it_is_lora() -> None:
    plain = run_of(LoRA(**FIELDS), weight_decay=0.1)
    sora = run_of(SoRA(xi=0.0, gate_lr=0.0, **FIELDS), weight_decay=0.1)
    for step in range(plain.total_steps):
        assert plain.train_step(batch(step)) == sora.train_step(batch(step))
        assert all(map(torch.equal, factors(plain), factors(sora)))
    sora.finish()
    assert all(map(torch.equal, factors(plain), factors(sora)))


@pytest.mark.parametrize("rule", THRESHOLDS)
@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad],
    ids=lambda cls: cls.__name__,
)
def test_a_step_is_the_optimizers_and_then_the_threshold(
    optimizer: Callable[..., torch.optim.Optimizer], rule: str
) -> None:
    """The same optimizer with the gates held fixed from outside, step by step."""
    xi = 0.02
    run = run_of(SoRA(xi=xi, dense_share=0.0, threshold=rule, **FIELDS), optimizer=optimizer)
    free = run_of(SoRA(xi=0.0, threshold=rule, **FIELDS), optimizer=optimizer)
    for step in range(8):
        run.train_step(batch(step))
        free.train_step(batch(step))
        moved = [f.gate for f in gated_factors(free.layers, "default").values()]
        THRESHOLDS[rule](moved, xi)
        for name, gate in gates(run).items():
            assert torch.equal(gate, gates(free)[name])


def test_plugged_onto_lora_it_is_sora() -> None:
    fields: dict[str, Any] = {"xi": 0.02, "dense_share": 0.0}
    plugged = run_of(LoRA(**FIELDS).with_parts(procedure=Sparsify(**fields)))
    sora = run_of(SoRA(**fields, **FIELDS))
    for step in range(6):
        assert plugged.train_step(batch(step)) == sora.train_step(batch(step))
    assert all(map(torch.equal, factors(plugged), factors(sora)))


def test_noise_on_the_weights_beside_it() -> None:
    parts = [Perturbation(rho=0.1), Sparsify(xi=0.1, dense_share=0.0)]
    run = run_of(LoRA(**FIELDS).with_parts(procedure=parts))
    for step in range(run.total_steps):
        run.train_step(batch(step))
    before = run.metrics["mean_rank"]
    run.finish()
    assert run.metrics["noise"] > 0
    assert before < 4
    assert {m.r["default"] for m in run.layers.values()} != {4}


def test_gates_have_a_group_without_decay_and_a_rate_of_their_own() -> None:
    run = run_of(SoRA(gate_lr=0.3, **FIELDS), weight_decay=0.1)
    assert [(g["role"], g["lr"], g["weight_decay"]) for g in run.optimizer.param_groups] == [
        ("lower", 0.05, 0.1),
        ("gate", 0.3, 0.0),
    ]
    assert sum(p.numel() for p in run.optimizer.param_groups[1]["params"]) == 3 * 4


def test_the_threshold_starts_after_the_dense_share() -> None:
    run = run_of(SoRA(xi=0.01, dense_share=0.25, **FIELDS))
    seen = []
    for step in range(run.total_steps):
        run.train_step(batch(step))
        seen.append(run.metrics["xi"])
    assert seen == [0.0] * 3 + [0.01] * 9


def test_stages() -> None:
    method = SoRA(xi=0.01, xi_last=0.04, stages=4, first_stage=0.4, dense_share=0.0, **FIELDS)
    run = run_of(method, steps=10, schedule=linear_schedule)
    assert [(p.name, p.steps) for p in run.phases] == [
        ("stage 1/4", 4),
        ("stage 2/4", 2),
        ("stage 3/4", 2),
        ("stage 4/4", 2),
    ]
    seen, rates = [], []
    for step in range(run.total_steps):
        rates.append(run.optimizer.param_groups[1]["lr"] / 0.05)
        run.train_step(batch(step))
        seen.append(run.metrics["xi"])
    assert seen == pytest.approx([0.01] * 4 + [0.02] * 2 + [0.03] * 2 + [0.04] * 2)
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25] + [1, 0.5] * 3)  # never 0 for a stage


@pytest.mark.parametrize(("steps", "lengths"), [(4, [1, 1, 1, 1]), (5, [2, 1, 1, 1])])
def test_every_stage_has_a_step_however_few_there_are(steps: int, lengths: list[int]) -> None:
    method = SoRA(xi=0.01, xi_last=0.04, stages=4, first_stage=0.9, **FIELDS)
    assert [phase.steps for phase in run_of(method, steps=steps).phases] == lengths


def test_the_threshold_can_follow_the_learning_rate() -> None:
    run = run_of(
        SoRA(xi=0.3, scale_with_lr=True, dense_share=0.0, gate_lr=0.1, **FIELDS),
        steps=4,
        schedule=linear_schedule,
    )
    seen = []
    for step in range(4):
        run.train_step(batch(step))
        seen.append(run.metrics["xi"])
    assert seen == pytest.approx([0.03, 0.0225, 0.015, 0.0075])


def test_a_closed_gate_keeps_its_rank_still_and_may_open_again() -> None:
    run = run_of(SoRA(xi=0.01, dense_share=0.0, **FIELDS), optimizer=torch.optim.SGD, lr=1.0)
    run.train_step(batch(0))  # B has left zero
    factor = next(iter(gated_factors(run.layers, "default").values()))
    B = next(iter(run.layers.values())).lora_B["default"].weight
    with torch.no_grad():
        factor.gate[1] = 0.0
    A_before, B_before = factor.live[1].clone(), B[:, 1].clone()
    run.optimizer.zero_grad()
    mean_square(run.model, batch(1)).backward()
    slope = float(factor.gate.grad[1])  # type: ignore[index]
    assert slope != 0
    run.optimizer.zero_grad()
    run.train_step(batch(1))
    assert torch.equal(factor.live[1], A_before)
    assert torch.equal(B[:, 1], B_before)
    expected = math.copysign(max(abs(slope) - 0.01, 0), -slope)
    assert float(factor.gate.detach()[1]) == pytest.approx(expected, abs=1e-15)


def test_permuted_ranks_train_the_same() -> None:
    order = torch.tensor([2, 0, 3, 1])
    runs = [run_of(SoRA(xi=0.01, gate_init="normal", **FIELDS)) for _ in range(2)]
    for factor in gated_factors(runs[1].layers, "default").values():
        factor.live.data.copy_(factor.live.data[order])
        factor.gate.data.copy_(factor.gate.data[order])
    for step in range(8):
        for run in runs:
            run.train_step(batch(step))
    for name, gate in gates(runs[0]).items():
        torch.testing.assert_close(gates(runs[1])[name], gate[order], rtol=1e-9, atol=1e-12)


def test_metrics_count_what_is_open_and_the_end_drops_the_rest() -> None:
    run = run_of(SoRA(xi=0.03, gate_init="normal", dense_share=0.0, **FIELDS), steps=16)
    sizes = {n: m.in_features + m.out_features for n, m in run.layers.items()}
    zeros = []
    for step in range(run.total_steps):
        run.train_step(batch(step))
        kept = {name: int((gate != 0).sum()) for name, gate in gates(run).items()}
        assert run.metrics["sparsity"] == pytest.approx(1 - sum(kept.values()) / 12)
        assert run.metrics["mean_rank"] == pytest.approx(sum(kept.values()) / 3)
        assert run.metrics["kept_parameters"] == sum(kept[n] * sizes[n] for n in kept)
        zeros.append(12 - sum(kept.values()))
    assert 0 < zeros[-1] < 12
    x, _ = batch(99)
    before = run.model(x).detach()
    run.finish()
    torch.testing.assert_close(run.model(x).detach(), before, rtol=1e-12, atol=1e-14)
    assert {n: m.r["default"] for n, m in run.layers.items()} == {
        n: k for n, k in kept.items() if k
    }
    assert run.layers.keys() == adapted_layers(run.model).keys()
    stored = sum(p.numel() for n, p in run.model.named_parameters() if "lora_" in n)
    assert stored == run.metrics["kept_parameters"]


def test_without_pruning_the_ranks_stay() -> None:
    run = run_of(SoRA(xi=0.03, gate_init="normal", prune=False, **FIELDS))
    for step in range(run.total_steps):
        run.train_step(batch(step))
    run.finish()
    assert run.metrics["sparsity"] > 0
    assert {m.r["default"] for m in run.layers.values()} == {4}


def test_a_resumed_run_has_the_same_bits() -> None:
    method = SoRA(xi=0.01, xi_last=0.03, stages=3, gate_init="normal", **FIELDS)
    straight, stopped = run_of(method), run_of(method)
    for step in range(7):
        straight.train_step(batch(step))
        stopped.train_step(batch(step))
    state = stopped.state_dict()
    again = Loop(
        *(method.apply(model(), seed=5), method),
        total_steps=12,
        lr=0.05,
        schedule=constant_schedule,
        loss=mean_square,
    )
    again.load_state_dict(state)
    for step in range(7, 12):
        straight.train_step(batch(step))
        again.train_step(batch(step))
        assert all(torch.equal(g, gates(again)[n]) for n, g in gates(straight).items())
    assert all(map(torch.equal, factors(straight), factors(again)))


def test_a_run_with_other_stages_does_not_go_on() -> None:
    """It would fall back into an earlier stage, whose threshold is another."""
    method = SoRA(xi=0.01, xi_last=0.03, stages=3, **FIELDS)
    stopped, longer = run_of(method), run_of(method, 40)
    stopped.train_step(batch(0))
    longer.load_state_dict(stopped.state_dict())
    with pytest.raises(MethodError, match=r"stages have \[4, 4, 4\] steps, those of this run \[14"):
        longer.train_step(batch(1))


@pytest.mark.parametrize(
    ("fields", "lr", "message"),
    [
        ({"xi": 1e-3}, 0.05, "shrinks a gate by 0.012 over 12 steps.*raise xi to 0.2"),
        ({"xi": 0.1, "gate_lr": 0.2, "dense_share": 0.25}, 0.05, "by 0.9 over 12 steps"),
        ({"xi": 0.1}, 0.05, "0.05, is not above xi = 0.1.*whatever the loss says"),
        ({"xi": 0.0}, 0.05, None),
        ({"xi": 0.3, "scale_with_lr": True}, 0.05, None),
        ({"xi": 0.1, "gate_lr": 0.2}, 0.05, None),
    ],
)
def test_thresholds_that_cannot_work_are_said(
    fields: dict[str, Any], lr: float, message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(SoRA(**{"dense_share": 0.0, **fields, **FIELDS}), lr=lr)
    with caplog.at_level(logging.WARNING):
        run.train_step(batch(0))
    if message is None:
        assert not caplog.records
    else:
        (record,) = caplog.records
        assert re.search(message, record.getMessage())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"xi": -1.0}, "xi = -1.0: expected a finite number of at least 0"),
        ({"xi": 0.1, "xi_last": 0.05, "stages": 2}, "xi_last = 0.05: expected a finite number of"),
        ({"xi_last": 0.1}, "stages = 1: expected at least 2 to get from xi to xi_last"),
        (
            {"xi": 0.0, "xi_last": 0.1, "stages": 2, "xi_schedule": "exp_linear"},
            "xi = 0.0: expected a number above 0 with exp_linear",
        ),
        ({"dense_share": 1.0}, r"dense_share = 1.0: expected a share in \[0, 1\)"),
        ({"gate_init": "zeros"}, "gate_init = 'zeros': expected ones or normal"),
        ({"l1_weight": -1.0}, "l1_weight = -1.0: expected a number of at least 0"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        SoRA(**fields)


def test_threshold_lists() -> None:
    assert xi_values(0.0, 7e-4, 8, "linear") == pytest.approx([i * 1e-4 for i in range(8)])
    ratios = xi_values(1e-4, 7e-4, 7, "exp_linear")
    assert [b / a for a, b in pairwise(ratios)] == pytest.approx([7 ** (1 / 6)] * 6)
    assert xi_values(1e-4, 1e-4, 1, "linear") == [1e-4]


def test_the_l1_term_is_the_mean_of_all_gates() -> None:
    run = run_of(SoRA(l1_weight=6.0, gate_init="normal", **FIELDS))
    penalty = run.slots.penalty
    assert isinstance(penalty, L1)
    value = penalty(run)
    every = torch.cat(list(gates(run).values()))
    assert float(value.detach()) == pytest.approx(6 * float(every.abs().mean()))
    value.backward()
    for factor in gated_factors(run.layers, "default").values():
        assert torch.equal(factor.gate.grad, 0.5 * factor.gate.detach().sign())  # type: ignore[arg-type]


def test_an_l1_term_needs_a_role_that_is_there() -> None:
    run_of(LoRA(**FIELDS).with_parts(penalty=L1(role="lower")))
    for penalty in (L1(), [Gram(rows=None), L1()]):
        message = r"L1\.role = 'gate': no trained parameter has this role; expected one of lower"
        with pytest.raises(MethodError, match=message):
            run_of(LoRA(**FIELDS).with_parts(penalty=penalty))
    with pytest.raises(MethodError, match=r"L1\.weight = -1: expected a number of at least 0"):
        L1(-1, "gate")


def test_layers_without_gates_are_refused() -> None:
    method = SoRA(**FIELDS)
    plain = LoRA(**FIELDS).apply(nn.Sequential(nn.Linear(5, 5)))
    with pytest.raises(MethodError, match="has no gates"):
        Loop(plain, method, total_steps=3)
