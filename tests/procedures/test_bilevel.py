"""Bilevel training through the plain loop: phases, rows, schedules, resumption, processes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from bilevel_toy import (
    FIELDS,
    LOWER,
    UPPER,
    Notes,
    batch,
    cross_entropy,
    held_out,
    named,
    parameter,
    spread,
    toy,
)
from models import batch as stacked
from models import classification_rows, same_bits, tiny_bert
from rankwright.core.loop import Loop, constant_schedule, linear_schedule
from rankwright.core.schedule import Phase
from rankwright.core.slots import Slots
from rankwright.errors import MethodError, TrainingError
from rankwright.layers import Dora
from rankwright.methods import BiDoRA, DoRA, LoRA
from rankwright.optimizers import LoraFa, LoraPro, LoraRite
from rankwright.penalties import L1, Gram
from rankwright.procedures import Bilevel
from rankwright.procedures.bilevel.hypergradient import MODES


def prepared(steps: int = 8, *, dropout: float = 0.0, loop: Any = None, **options: Any) -> Notes:
    method = BiDoRA(**FIELDS, **options)
    settings = {"lr": 1e-2, "weight_decay": 0.1, "max_grad_norm": 1.0, **(loop or {})}
    return Notes(method.apply(toy(dropout)), method, total_steps=steps, **settings)


def trained(steps: int = 8, **options: Any) -> Notes:
    run = prepared(steps, **options)
    for k in range(steps):
        run.train_step(batch(k))
    run.finish()
    return run


# Levels -------------------------------------------------------------------------------------------


def test_each_level_moves_only_its_own_parameters():
    run = prepared(steps=4, unroll_steps=2, retrain=False)
    upper, lower = dict(named(run.model, UPPER)), dict(named(run.model, LOWER))
    run.train_step(batch(0))
    assert all(torch.equal(upper[name], value) for name, value in named(run.model, UPPER))
    assert not torch.equal(lower["l0.B"], parameter(run.model, "l0.B"))
    run.train_step(batch(1))  # Notes sees to it that the upper step leaves the lower level alone
    assert len(run.upper_gradients) == 1
    assert not any(torch.equal(upper[name], value) for name, value in named(run.model, UPPER))


@dataclass(frozen=True, kw_only=True)
class Fixed(DoRA):
    """DoRA with BiDoRA's layer and penalty and without its procedure."""

    def slots(self) -> Slots:
        return Slots(layer=Dora("full"), penalty=Gram(1e-2))


@pytest.mark.parametrize("mode", ["fd_forward", "exact"])
def test_an_upper_learning_rate_of_0_is_dora_with_fixed_magnitudes(mode):
    options = {"hypergradient": mode, "upper_lr": 0.0, "retrain": False, "gram_weight": 1e-2}
    run = trained(dropout=0.1, lora_dropout=0.1, **options)
    assert run.metrics["hypergradient_norm"] > 0
    method = Fixed(**FIELDS, lora_dropout=0.1)
    control = Loop(
        method.apply(toy(dropout=0.1)),
        method,
        total_steps=8,
        lr=1e-2,
        weight_decay=0.1,
        max_grad_norm=1.0,
        schedule=constant_schedule,
        loss=cross_entropy,
    )
    for name in UPPER:
        parameter(control.model, name).requires_grad_(False)
    for k in range(8):
        control.train_step(batch(k))
    assert same_bits(run.model.state_dict(), control.model.state_dict())


def test_k_lower_steps_for_each_upper_step():
    drawn = []

    def noted(k):
        drawn.append(k)
        return held_out(k)

    run = prepared(steps=12, unroll_steps=4, retrain=False, loop={"held_out": noted})
    counts = []
    for k in range(12):
        run.train_step(batch(k))
        counts.append(len(run.upper_gradients))
    assert counts == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert drawn == [0, 1, 2]
    assert run.passes == 12 + 3 * 2  # forward differences: two more passes an upper step


@pytest.mark.parametrize(
    ("mode", "share", "passes"),
    [
        ("fd_forward", 1.0, 3),
        ("fd_central", 1.0, 4),
        ("betty", 1.0, 4),
        ("exact", 1.0, 4),
        ("first_order", 1.0, 2),
        ("fd_forward", 0.25, 2.5),
        ("fd_central", 0.25, 2.5),
        ("betty", 0.5, 3),
    ],
)
def test_passes_of_a_search_step(mode, share, passes):
    run = prepared(steps=2, hypergradient=mode, fd_share=share)
    run.train_step(batch(0))
    assert run.passes == passes
    run.train_step(batch(1))
    assert run.passes == passes + 1  # a retrain step has one
    assert run.method.made_of().passes(2) == run.passes


def test_the_penalty_is_computed_once_a_lower_step_and_in_no_other_pass(monkeypatch):
    calls = []
    compute = Gram.__call__

    def counted(self, run):
        calls.append(run.step)
        return compute(self, run)

    monkeypatch.setattr(Gram, "__call__", counted)
    trained(steps=4, hypergradient="fd_central", unroll_steps=1)
    assert calls == [0, 1, 2, 3]


# Retraining ---------------------------------------------------------------------------------------


def test_reentrant_checkpoints_are_refused():
    """They hide parameters from a gradient that is asked for; it would silently be 0."""
    method = BiDoRA(r=2)

    def checkpointed(*, reentrant):
        model = method.apply(tiny_bert())
        model.enable_input_require_grads()
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        run = Loop(model, method, total_steps=8, held_out=lambda _: rows)
        run.train_step(rows)
        return run

    rows = stacked(classification_rows(4))
    assert checkpointed(reentrant=False).metrics["hypergradient_norm"] > 0
    with pytest.raises(MethodError, match=r"reentrant .*'use_reentrant': False"):
        checkpointed(reentrant=True)


@pytest.mark.parametrize("retrain_from", ["snapshot", "warm"])
def test_retraining_starts_anew_under_fixed_upper_parameters(retrain_from):
    run = prepared(steps=8, search_fraction=0.5, retrain_from=retrain_from)
    spread(run.model)
    start = dict(named(run.model, LOWER))
    for k in range(4):
        run.train_step(batch(k))
    best = dict(named(run.model, UPPER))
    back = [torch.equal(start[name], value) for name, value in named(run.model, LOWER)]
    assert all(back) if retrain_from == "snapshot" else not any(back)
    assert not run.optimizer.state
    assert "upper_loss" in run.metrics  # of the last upper step, for the log of its step
    for k in range(4, 8):
        run.train_step(batch(k))
        assert "upper_loss" not in run.metrics
    run.finish()
    assert all(torch.equal(best[name], value) for name, value in named(run.model, UPPER))
    assert not any(torch.equal(start[name], value) for name, value in named(run.model, LOWER))
    assert len(run.upper_gradients) == 4


def test_retraining_is_training_under_the_found_magnitudes():
    run = prepared(steps=6, search_fraction=0.5, gram_weight=1e-2)
    for k in range(6):
        run.train_step(batch(k))
    method = Fixed(**FIELDS)
    options = {"total_steps": 3, "lr": 1e-2, "weight_decay": 0.1, "max_grad_norm": 1.0}
    control = Loop(
        method.apply(toy()), method, **options, schedule=constant_schedule, loss=cross_entropy
    )
    with torch.no_grad():
        for name, value in named(run.model, UPPER):
            parameter(control.model, name).copy_(value).requires_grad_(False)
    for k in range(3, 6):
        control.train_step(batch(k))
    assert same_bits(run.model.state_dict(), control.model.state_dict())


# Phases and schedules -----------------------------------------------------------------------------


def test_phases():
    assert prepared(10).phases == [Phase("search", 5), Phase("retrain", 5)]
    assert prepared(10, search_fraction=0.3).phases == [Phase("search", 3), Phase("retrain", 7)]
    assert prepared(10, retrain=False).phases == [Phase("search", 10)]


@pytest.mark.parametrize(
    ("steps", "options"),
    [(1, {}), (4, {"unroll_steps": 3}), (2, {"unroll_steps": 3, "retrain": False})],
)
def test_a_run_too_short_for_its_phases(steps, options):
    with pytest.raises(MethodError, match=r"optimizer steps give .* of search"):
        prepared(steps, **options)


def test_both_schedules_follow_the_users_shape_in_every_phase():
    state = prepared(
        11, search_fraction=7 / 11, unroll_steps=2, retrain_lr_ratio=3.0, loop={"lr": 1.0}
    ).procedure
    lower, upper = (state.schedule(role, linear_schedule, 11) for role in ("lower", "upper"))
    assert [lower(k) for k in range(7)] == pytest.approx([1 - k / 7 for k in range(7)])
    assert [lower(k) for k in range(7, 11)] == pytest.approx([3 * (1 - k / 4) for k in range(4)])
    assert [upper(k) for k in range(7)] == pytest.approx([1 - (k // 2) / 4 for k in range(7)])


def test_upper_options_reach_the_optimizer():
    options = {"upper_lr": 0.5, "upper_weight_decay": 0.25, "upper_betas": (0.5, 0.75)}
    run = prepared(**options, loop={"schedule": constant_schedule})
    groups = {group["role"]: group for group in run.optimizer.param_groups}
    assert (groups["upper"]["lr"], groups["lower"]["lr"]) == (0.5, 1e-2)
    assert (groups["upper"]["weight_decay"], groups["upper"]["betas"]) == (0.25, (0.5, 0.75))
    assert groups["lower"]["betas"] == (0.9, 0.999)


# Rows ---------------------------------------------------------------------------------------------


class Owner(Notes):
    """A loop that says how many training rows there are."""

    rows = 10

    def train_rows(self) -> int | None:
        return self.rows


def owner(rows: int, *, seed: int = 0, own: bool = False, **options: Any) -> Any:
    method = BiDoRA(**FIELDS, **options)
    kind = type("Owned", (Owner,), {"rows": rows, "own_held_out": own})
    return kind(method.apply(toy()), method, total_steps=4, seed=seed).procedure


@pytest.mark.parametrize(("rows", "share", "held"), [(10, 0.2, 2), (3, 0.2, 1), (2, 0.5, 1)])
def test_the_split_is_disjoint_and_covers_all_rows(rows, share, held):
    state = owner(rows, val_fraction=share)
    assert state.restricts_rows
    assert len(state.held_out_rows()) == held
    assert sorted([*state.rows(0), *state.held_out_rows()]) == list(range(rows))
    assert state.rows(1) is None


def test_the_split_is_a_function_of_the_seed():
    assert owner(100).held_out_rows() == owner(100).held_out_rows()
    assert owner(100).held_out_rows() != owner(100, seed=1).held_out_rows()


def test_the_users_own_held_out_set_leaves_all_rows_to_the_lower_level():
    state = owner(10, own=True)
    assert not state.restricts_rows
    assert state.rows(0) is None
    assert not state.held_out_rows()


@pytest.mark.parametrize(("rows", "share"), [(1, 0.2), (2, 0.2), (3, 0.9)])
def test_neither_split_may_be_empty(rows, share):
    with pytest.raises(MethodError, match=rf"val_fraction={share} of {rows} training rows"):
        owner(rows, val_fraction=share).held_out_rows()


# Resumption ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fd_share", [1.0, 0.25])
def test_resumption_at_every_step_gives_the_same_bits(fd_share):
    options = {"unroll_steps": 2, "dropout": 0.1, "lora_dropout": 0.1, "fd_share": fd_share}
    expected = trained(**options)
    for cut in range(1, 8):
        first = prepared(**options)
        for k in range(cut):
            first.train_step(batch(k))
        saved = copy.deepcopy(first.state_dict())
        torch.manual_seed(99)
        second = prepared(**options)
        spread(second.model, seed=cut)  # a start that the checkpoint has to replace
        second.load_state_dict(saved)
        for k in range(cut, 8):
            second.train_step(batch(k))
        second.finish()
        assert same_bits(expected.model.state_dict(), second.model.state_dict()), cut
        assert second.passes == expected.passes


@pytest.mark.parametrize(
    ("change", "what"), [({"search_fraction": 0.25}, "phases"), ({"rows": 11}, "split")]
)
def test_a_checkpoint_of_another_division_is_refused(change, what):
    saved = owner(10).state_dict()
    state = owner(**{"rows": 10, **change})
    state.load_state_dict(saved)
    with pytest.raises(MethodError, match=f"its {what} is"):
        state.begin()


@pytest.mark.parametrize("mode", MODES)
def test_a_penalty_of_the_upper_level_is_added_to_the_hypergradient_alone(mode):
    """Its gradient is weight * sign(m) / count; the lower step does not see it."""
    found = {}
    for weight in (0.0, 0.3):
        method = BiDoRA(**FIELDS, hypergradient=mode).with_parts(penalty=L1(weight, role="upper"))
        model = method.apply(toy())
        spread(model)
        signs = {name: value.sign() for name, value in named(model, UPPER)}
        run = Notes(model, method, total_steps=2)
        run.train_step(batch(0))
        found[weight] = run.upper_gradients[0], dict(named(model, LOWER)), run.metrics["penalty"]
    (plain, lower, logged), (penalised, lower_too, logged_too) = found.values()
    assert all(torch.equal(lower[name], lower_too[name]) for name in LOWER)
    assert logged == logged_too  # of the lower level alone
    count = sum(value.numel() for value in plain.values())
    for name in UPPER:
        expected = plain[name] + 0.3 * signs[name] / count
        torch.testing.assert_close(penalised[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", [LoraFa(), LoraPro(), LoraRite()])
def test_an_optimizer_whose_entries_move_together_needs_a_mode_without_jacobian(optimizer):
    def method(mode):
        bilevel = Bilevel(upper="layers.0", hypergradient=mode)
        return LoRA().with_parts(optimizer=optimizer, procedure=bilevel)

    for mode in ("fd_forward", "fd_central", "exact"):
        with pytest.raises(MethodError, match="an entry of a factor moves by the gradients of"):
            method(mode)
    assert method("first_order").made_of().optimizer == method("betty").made_of().optimizer


def test_training_without_the_events_is_an_error():
    run = prepared()
    run.fire("before_step")
    with pytest.raises(TrainingError, match=r"after_backward.*after_step"):
        run.finish()


# Batches and processes ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fd_forward", "fd_central", "exact", "betty"])
def test_micro_batches_equal_one_large_batch(mode):
    whole, parts = (prepared(steps=4, hypergradient=mode) for _ in range(2))
    for run in (whole, parts):
        spread(run.model)
    for k in range(4):
        x, y = batch(k)
        whole.train_step((x, y))
        parts.train_step((x[:4], y[:4]), (x[4:], y[4:]))
    for name, value in named(whole.model, (*LOWER, *UPPER)):
        torch.testing.assert_close(value, parameter(parts.model, name).data, rtol=1e-8, atol=1e-10)


def part(rows: Any, rank: int, size: int) -> Any:
    return tuple(tensor.chunk(size)[rank] for tensor in rows)


def train_a_share(rank: int, size: int, folder: str, mode: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    method = BiDoRA(**FIELDS, gram_weight=1e-2, hypergradient=mode)
    model = torch.nn.parallel.DistributedDataParallel(method.apply(toy()))
    run = Notes(
        model,
        method,
        total_steps=6,
        lr=1e-2,
        max_grad_norm=0.5,
        held_out=lambda k: part(held_out(k), rank, size),
    )
    for k in range(6):
        run.train_step(part(batch(k), rank, size))
    run.finish()
    states = dict(named(run.model, (*LOWER, *UPPER)))
    torch.save({"model": states, "upper": run.upper_gradients}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("mode", ["fd_forward", "exact"])
def test_two_processes_equal_one_with_the_same_global_batches(tmp_path, mode):
    # fork where it can be had: a spawned process spends most of this test on imports
    method = "spawn" if torch.cuda.is_available() else "fork"
    mp.start_processes(train_a_share, (2, str(tmp_path), mode), nprocs=2, start_method=method)
    single = prepared(
        steps=6,
        gram_weight=1e-2,
        hypergradient=mode,
        loop={"weight_decay": 0.0, "max_grad_norm": 0.5},
    )
    for k in range(6):
        single.train_step(batch(k))
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert same_bits(shares[0]["model"], shares[1]["model"])
    for name, value in named(single.model, (*LOWER, *UPPER)):
        torch.testing.assert_close(value, shares[0]["model"][name], rtol=1e-6, atol=1e-9)
    for one, two in zip(single.upper_gradients, shares[0]["upper"], strict=True):
        for name in UPPER:
            torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-9)


# Fields -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("upper", "("),
        ("hypergradient", "fd"),
        ("val_fraction", 1.0),
        ("unroll_steps", 0),
        ("upper_lr", -1.0),
        ("upper_weight_decay", -1.0),
        ("upper_betas", (0.9, 1.0)),
        ("upper_betas", (0.9,)),
        ("upper_betas", ()),
        ("fd_radius", 0.0),
        ("xi", -0.1),
        ("search_fraction", 0.0),
        ("retrain_from", "scratch"),
        ("retrain_lr_ratio", 0.0),
    ],
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(MethodError, match=rf"Bilevel\.{field} = .*expected"):
        Bilevel(**{"upper": "m", field: value})


@pytest.mark.parametrize(("pattern", "matched"), [("nothing", 0), (".", 8)])
def test_upper_must_match_some_but_not_all(pattern, matched):
    run = prepared()
    with pytest.raises(MethodError, match=f"matches {matched} of 8 trainable parameters"):
        Bilevel(pattern).start(run)
