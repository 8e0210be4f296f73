"""Properties of the one-step hypergradient, on the toy network and on a scalar problem."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bilevel_toy import (
    FIELDS,
    LOWER,
    UPPER,
    Notes,
    batch,
    cross_entropy,
    held_out,
    parameter,
    spread,
    toy,
)
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method import Method
from rankwright.core.slots import Slots
from rankwright.errors import MethodError, TrainingError
from rankwright.layers import Dora
from rankwright.methods import BiDoRA
from rankwright.procedures import Bilevel, Perturbation
from rankwright.procedures.bilevel.hypergradient import drawn_rows

OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "nesterov": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, eps=1e-3),
    "adam with l2": lambda groups: torch.optim.Adam(
        [{**group, "weight_decay": 0.1} for group in groups], eps=1e-3
    ),
    "adamw": lambda groups: torch.optim.AdamW(
        [{**group, "weight_decay": 0.1} for group in groups], eps=1e-3
    ),
}


def searching(
    *,
    dropout: float = 0.0,
    started: bool = True,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Notes:
    """A run of search only, whose one upper step comes at its end."""
    loop = {
        key: options.pop(key)
        for key in ("optimizer", "lr", "held_out", "max_grad_norm", "schedule")
        if key in options
    }
    steps = options.setdefault("unroll_steps", 1)
    plugged = options.pop("plugged", {})
    method = BiDoRA(**FIELDS, retrain=False, **options).with_parts(**plugged)
    model = method.apply(toy(dropout).to(dtype))
    if started:
        spread(model)
    return Notes(
        model, method, total_steps=steps, **{"lr": 0.05, "optimizer": torch.optim.SGD, **loop}
    )


def hypergradient(run: Notes) -> Tensor:
    """Train to the upper step; its gradient as one vector."""
    for k in range(run.total_steps):
        run.train_step(batch(k))
    return torch.cat([run.upper_gradients[-1][name] for name in UPPER])


def implicit(**options: Any) -> Tensor:
    without = {**options, "hypergradient": "first_order", "fd_share": 1.0}
    direct = hypergradient(searching(**without))
    return hypergradient(searching(**options)) - direct


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


# The exact mode is the derivative of the whole map ------------------------------------------------


def upper_loss(shift: Tensor, steps: int, **options: Any) -> float:
    """L_val(V1(m + shift), m + shift): m is moved just before the last of `steps` lower steps."""
    run = searching(unroll_steps=steps + 1, **options)
    run.total_steps = steps + 1
    for k in range(steps):
        if k == steps - 1:
            with torch.no_grad():
                parameter(run.model, "l0.m").add_(shift[:5])
                parameter(run.model, "l1.m").add_(shift[5:])
        run.train_step(batch(k))
    return float(cross_entropy(run.model, held_out(0)).detach())


@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_exact_is_the_derivative_of_the_upper_loss_after_the_step(optimizer, max_grad_norm):
    options = {"optimizer": optimizer, "max_grad_norm": max_grad_norm, "gram_weight": 1e-2}
    h = hypergradient(searching(unroll_steps=3, hypergradient="exact", **options))
    direct = hypergradient(searching(unroll_steps=3, hypergradient="first_order", **options))
    for seed in range(2):
        shift = torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        up, down = (upper_loss(sign * 1e-5 * shift, 3, **options) for sign in (1, -1))
        slope = (up - down) / 2e-5
        assert float(h @ shift) == pytest.approx(slope, rel=1e-7, abs=1e-9)
        assert abs(float(direct @ shift) - slope) > 1e-5  # the implicit term is there to be seen


# Finite differences -------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "factor"), [("fd_central", 100), ("fd_forward", 10)])
def test_the_error_falls_with_the_radius(mode, factor):
    exact = implicit(hypergradient="exact")
    errors = [
        relative(implicit(hypergradient=mode, fd_radius=radius), exact)
        for radius in (1e-1, 1e-2, 1e-3)
    ]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(factor, rel=0.15)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_all_modes_see_the_masks_of_the_lower_step(dropout):
    options = {"dropout": dropout, "lora_dropout": 0.3}
    exact = implicit(hypergradient="exact", **options)
    central = implicit(hypergradient="fd_central", fd_radius=1e-3, **options)
    assert relative(exact, central) < 1e-4


@pytest.mark.parametrize("mode", ["fd_forward", "fd_central", "betty"])
def test_a_difference_forms_no_gradient_of_the_lower_level(mode):
    trained = []

    def loss(model, rows):
        trained.append([parameter(model, name).requires_grad for name in (*LOWER, *UPPER)])
        return cross_entropy(model, rows)

    run = searching(hypergradient=mode)
    run._loss = loss
    run.train_step(batch(0))
    every, upper = [True] * 8, [False] * 6 + [True] * 2
    assert trained == [every, every, *[upper] * (len(trained) - 2)]
    assert len(trained) == run.passes
    assert all(parameter(run.model, name).requires_grad for name in LOWER)


@pytest.mark.parametrize("mode", ["fd_forward", "fd_central", "exact", "betty"])
def test_the_implicit_term_is_linear_in_the_upper_loss(mode):
    def scaled(k):
        return (*held_out(k), 3.0)

    one, three = implicit(hypergradient=mode), implicit(hypergradient=mode, held_out=scaled)
    torch.testing.assert_close(three, 3 * one, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("mode", ["fd_forward", "fd_central", "exact"])
def test_without_a_step_the_hypergradient_is_direct(mode):
    assert torch.equal(
        hypergradient(searching(hypergradient=mode, xi=0.0)),
        hypergradient(searching(hypergradient="first_order")),
    )


@pytest.mark.parametrize("mode", ["fd_forward", "fd_central", "exact"])
def test_a_warm_up_from_zero_has_no_implicit_term(mode):
    run = searching(hypergradient=mode, schedule=lambda _: lambda _: 0.0)
    run.train_step(batch(0))
    assert run.metrics["implicit_to_direct"] == 0.0


@pytest.mark.parametrize("mode", ["fd_forward", "fd_central", "exact"])
def test_the_penalty_has_no_part_in_the_implicit_term(mode):
    # learning rate 0 and a fixed xi: the same V and v with the penalty on and off
    off, on = (
        hypergradient(searching(hypergradient=mode, lr=0.0, xi=0.1, gram_weight=weight))
        for weight in (0.0, 1.0)
    )
    assert torch.equal(off, on)


def test_xi_replaces_the_learning_rate():
    own, given = (implicit(hypergradient="exact", xi=xi) for xi in (None, 0.05))
    torch.testing.assert_close(own, given, rtol=1e-12, atol=1e-15)


def test_adams_first_step_hides_the_gradient():
    """Adam moves by sign(g) at first when eps -> 0, so the implicit term vanishes."""

    def ratio(eps):
        run = searching(
            hypergradient="exact", optimizer=lambda groups: torch.optim.Adam(groups, eps=eps)
        )
        run.train_step(batch(0))
        return run.metrics["implicit_to_direct"]

    assert ratio(1e-8) < 1e-3 < 100 * ratio(1e-8) < ratio(1e-3)


def test_a_factor_that_never_had_a_gradient_does_not_drown_the_others():
    """B = 0 keeps A's gradient at 0, where 1 / eps = 1e8 would be Adam's Jacobian."""
    options = {"started": False, "optimizer": torch.optim.AdamW, "lr": 1e-3}
    exact = implicit(hypergradient="exact", **options)
    for mode in ("fd_central", "fd_forward"):
        estimate = implicit(hypergradient=mode, dtype=torch.float32, **options)
        assert relative(estimate.double(), exact) < 0.1


# A share of the rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [{}, {"plugged": {"procedure": Perturbation(rho=0.3)}}])
@pytest.mark.parametrize(
    ("mode", "whole"),
    [("fd_forward", "fd_central"), ("fd_central", "fd_central"), ("betty", "betty")],
)
def test_the_mean_over_all_quarters_is_the_difference_of_the_whole(monkeypatch, mode, whole, noise):
    expected = implicit(hypergradient=whole, **noise)
    parts = []
    for quarter in torch.randperm(8).chunk(4):
        monkeypatch.setattr(
            "rankwright.procedures.bilevel.hypergradient.drawn_rows",
            lambda *_, q=quarter: q,
        )
        parts.append(implicit(hypergradient=mode, fd_share=0.25, **noise))
    assert min(relative(part, expected) for part in parts) > 0.01
    torch.testing.assert_close(sum(parts) / 4, expected, rtol=1e-9, atol=1e-13)


def test_rows_are_drawn_in_every_micro_batch_and_weigh_the_same(monkeypatch):
    drawn = []

    def noted(total, share, draw):
        drawn.append(total)
        return drawn_rows(total, share, draw)

    monkeypatch.setattr("rankwright.procedures.bilevel.hypergradient.drawn_rows", noted)
    x, y = batch(0)
    run = searching(hypergradient="fd_forward", fd_share=0.5)
    run.train_step((x[:6], y[:6]), (x[6:], y[6:]))
    assert drawn == [6, 2]
    assert run.passes == 1 + 1 + 2 * 0.5


@pytest.mark.parametrize(("total", "share", "rows"), [(8, 0.25, 2), (10, 0.3, 3), (3, 0.25, 1)])
def test_a_share_is_rounded_down_to_at_least_one_row(total, share, rows):
    draws = [drawn_rows(total, share, torch.Generator().manual_seed(k)) for k in range(60)]
    assert all(len(set(draw.tolist())) == rows for draw in draws)
    assert set(torch.cat(draws).tolist()) == set(range(total))


def test_both_sides_of_a_share_see_the_same_dropout_masks():
    options = {"hypergradient": "fd_forward", "fd_share": 0.5, "dropout": 0.1, "lora_dropout": 0.1}
    coarse, fine = (implicit(fd_radius=radius, **options) for radius in (1e-2, 1e-4))
    assert relative(coarse, fine) < 1e-3  # other masks: their difference over 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:-1]), r"differ: 8 in entry 0, 7 in entry 1; take whole"),
        (lambda x, y: (x, y, "text"), r"entry 2 is a str; let the collator"),
        (lambda x, y: (x, y, [1, 2]), r"entry 2 is a list"),
    ],
)
def test_a_batch_that_cannot_be_taken_apart_is_named(change, message):
    def loss(model, rows):
        return cross_entropy(model, (rows[0], batch(0)[1]))

    run = searching(hypergradient="fd_forward", fd_share=0.25)
    run._loss = loss
    with pytest.raises(MethodError, match=message):
        run.train_step(change(*batch(0)))


def test_rows_of_one_cost_more_than_they_save(caplog):
    run = searching(hypergradient="fd_forward", fd_share=0.25, unroll_steps=1)
    x, y = batch(0)
    run.train_step((x[:1], y[:1]))
    assert "micro-batches have one row" in caplog.text


# Randomness ---------------------------------------------------------------------------------------


def test_the_lower_passes_share_their_dropout_masks(monkeypatch):
    options = {"dropout": 0.1, "lr": 0.5}
    exact = implicit(hypergradient="exact", **options)
    assert relative(implicit(hypergradient="fd_central", **options), exact) < 1e-3
    assert relative(implicit(hypergradient="fd_forward", **options), exact) < 0.1
    monkeypatch.setattr("rankwright.core.loop.random_state", lambda: None)
    assert relative(implicit(hypergradient="fd_forward", **options), exact) > 0.5


# Precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "autocast", "radius"),
    [
        (torch.float64, False, 0.01),
        (torch.float32, False, 0.01),
        (torch.float32, True, 0.1),
        (torch.bfloat16, False, 0.1),
    ],
)
def test_the_radius_follows_the_precision_of_the_layers(base, autocast, radius):
    def loss(model, rows):
        x, y = rows
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(x.to(base))
        return nn.functional.cross_entropy(logits.float(), y)

    method = BiDoRA(**{**FIELDS, "modules_to_save": None}, retrain=False)
    model = method.apply(toy().to(base))
    run = Loop(model, method, total_steps=1, lr=1e-2, loss=loss, held_out=held_out)
    run.train_step(batch(0))
    assert run.procedure._hypergradient.fd_radius == radius
    assert run.metrics["hypergradient_norm"] > 0


# Optimizers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "named"),
    [
        (torch.optim.Adagrad, "Adagrad"),
        (lambda groups: torch.optim.AdamW(groups, amsgrad=True), "AdamW with amsgrad"),
        (lambda groups: torch.optim.SGD(groups, momentum=0.9, dampening=0.5), "dampening"),
    ],
)
def test_an_optimizer_without_a_known_jacobian_is_refused_before_training(optimizer, named):
    run = searching(optimizer=optimizer)
    with pytest.raises(MethodError, match=rf"(?s){named}.*first_order.*betty"):
        run.train_step(batch(0))
    for mode in ("first_order", "betty"):
        assert hypergradient(searching(optimizer=optimizer, hypergradient=mode)).isfinite().all()


def test_a_direction_that_is_not_finite_names_the_step():
    run = searching(unroll_steps=2, held_out=lambda k: (*held_out(k), float("inf")))
    run.train_step(batch(0))
    with pytest.raises(TrainingError, match="direction of the hypergradient at step 1 is"):
        run.train_step(batch(1))


# Another pair of levels ---------------------------------------------------------------------------


class Scalar(nn.Module):
    """(v m - target)^2 / 2; the adapted layer is there and has no part in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, dtype=torch.float64)
        self.v = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        self.m = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

    def forward(self, target: float) -> Tensor:
        return ((self.v * self.m - target) ** 2 / 2).sum()


@dataclass(frozen=True, kw_only=True)
class ScalarBilevel(Method):
    name: ClassVar[str] = "scalar_bilevel"

    mode: str = "exact"

    def slots(self) -> Slots:
        procedure = Bilevel(r"\.m$", hypergradient=self.mode, retrain=False)
        return Slots(layer=Dora("full"), procedure=procedure)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("exact", -0.28), ("fd_central", -0.28), ("fd_forward", -0.28), ("first_order", -1.12)],
)
def test_a_scalar_problem_by_hand(mode, expected):
    method = ScalarBilevel(r=1, target_modules=["layer"], mode=mode)
    model = method.apply(Scalar())
    model.base_model.model.v.requires_grad_()
    model.base_model.model.m.requires_grad_()
    run = Loop(
        model,
        method,
        total_steps=1,
        lr=0.1,
        optimizer=torch.optim.SGD,
        schedule=constant_schedule,
        loss=lambda m, target: m(target),
        held_out=lambda _: 3.0,
    )
    run.train_step(1.0)
    assert model.base_model.model.v.item() == pytest.approx(0.8)
    moved = (2.0 - model.base_model.model.m.item()) / 0.1
    tolerance = 0.03 if mode == "fd_forward" else 1e-9
    assert moved == pytest.approx(expected, abs=tolerance)


def test_every_golden_name_is_a_trained_parameter():
    run = searching()
    trained = {id(p) for p in run.trainable().values()}
    assert trained == {id(parameter(run.model, name)) for name in (*LOWER, *UPPER)}
