import logging

import pytest
import torch
from torch import nn

from chain_toy import Chained, Tanh, chained, mean_square
from rankwright.core.loop import Loop, constant_schedule, linear_schedule
from rankwright.core.slots import Slots
from rankwright.errors import MethodError
from rankwright.layers.stacked.factor import WorkingCopy
from rankwright.layers.stacked.layer import StackedLoRA
from rankwright.procedures.chain.chain import Chain

SIZES = [(6, 5), (7, 6), (4, 7)]  # (out, in) of three layers, each a group of its own


def toy(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return Tanh([torch.randn(size, generator=generator, dtype=dtype) / 2 for size in SIZES])


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x, y = (torch.randn(8, width, generator=generator, dtype=torch.float64) for width in (5, 4))
    return x, y


def loop(chain, steps, *, model=None, r=1, **options):
    model, method = chained(model or toy(), chain, r=r, lora_alpha=2)
    options = {"lr": 1e-2, "loss": mean_square, "schedule": constant_schedule, **options}
    return Loop(model, method, total_steps=steps, **options)


def train(chain, steps, **options):
    run = loop(chain, steps, **options)
    for step in range(steps):
        run.train_step(batch(step))
    run.finish()
    return run


def output(run, step=99):
    run.model.eval()
    with torch.no_grad():
        return run.model(batch(step)[0])


def finished(run):
    return [stack.A.finished for stack in run.procedure.boosters.stacks.values()]


# Rounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "steps", "lengths"),
    [
        ({}, 10, [10]),
        ({}, 45, [23, 22]),
        ({}, 6400, [200] * 32),
        ({"rounds": 4}, 12, [3, 3, 3, 3]),
        ({"rounds": 3}, 11, [4, 4, 3]),
        ({"steps_per_round": 5}, 12, [5, 5, 2]),
        ({"steps_per_round": 5}, 10, [5, 5]),
        ({"steps_per_round": 20}, 12, [12]),
        ({"ranks": [3, 2, 1]}, 7, [3, 2, 2]),
        ({"ranks": [2, 1], "steps_per_round": 5}, 7, [5, 2]),
        ({"default_rounds": 3}, 90, [30, 30, 30]),
        ({"epochs_per_round": 1}, 12, [5, 5, 2]),
        ({"epochs_per_round": 0.5}, 10, [3, 2, 3, 2]),
        ({"epochs_per_round": 9}, 12, [12]),
    ],
)
def test_steps_are_divided_into_rounds(fields, steps, lengths):
    assert Chain(**fields).lengths(steps, steps_per_epoch=5) == lengths


def test_rounds_of_whole_epochs():
    run = loop(Chain(epochs_per_round=2), 8, steps_per_epoch=3)
    assert [phase.steps for phase in run.phases] == [6, 2]
    with pytest.raises(MethodError, match="does not know how long an epoch is"):
        loop(Chain(epochs_per_round=2), 8)
    with pytest.raises(MethodError, match="less than one of the 3 optimizer steps"):
        train(Chain(epochs_per_round=0.1), 8, steps_per_epoch=3)


def test_ranks_of_every_round():
    run = loop(Chain(ranks=[3, 1, 2]), 6, r=3)
    ranks = []
    for step in range(6):
        run.train_step(batch(step))
        ranks.append(run.model.peft_config["default"].r)
    assert ranks == [3, 4, 4, 6, 6, 6]
    run.finish()
    assert finished(run) == [6, 6, 6]
    assert {stack.scaling for stack in run.procedure.boosters.stacks.values()} == {2 / 3}
    assert all(rounds == [0, 1, 2] for rounds in run.procedure.boosters.kept.values())


def test_ranks_that_do_not_fit():
    with pytest.raises(MethodError, match="the largest is above r = 1"):
        loop(Chain(ranks=[2, 1]), 4)
    with pytest.raises(MethodError, match="are 2, but 4 optimizer steps make 3 rounds"):
        train(Chain(rounds=3, ranks=[1, 1]), 4)


def test_a_round_is_a_phase():
    run = loop(Chain(rounds=3), 7)
    phases = [(phase.name, phase.steps) for phase in run.phases]
    assert phases == [("round 1/3", 3), ("round 2/3", 2), ("round 3/3", 2)]


def test_more_rounds_than_steps():
    with pytest.raises(MethodError, match="rounds = 9, but the run has 4"):
        train(Chain(rounds=9), 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": 2, "steps_per_round": 3}, "None where steps_per_round is given"),
        ({"rounds": 2, "epochs_per_round": 3}, "None where epochs_per_round is given"),
        ({"epochs_per_round": 0}, "epochs_per_round"),
        ({"ranks": []}, "ranks"),
        ({"ranks": [2, 0]}, "ranks"),
        ({"frozen": "C"}, "None, A or B"),
        ({"frozen": "A", "frozen_draw": "uniform"}, "one of gaussian, orthonormal, unbiased"),
        ({"projected": True}, "False where frozen is None"),
        ({"rounds": 0}, "rounds"),
        ({"steps_per_round": 0}, "steps_per_round"),
        ({"rounds": 2.5}, "rounds = 2.5: expected None or an integer of at least 1"),
        ({"layers_per_round": 0}, "layers_per_round"),
        ({"layers_per_round": 1.5}, "layers_per_round"),
        ({"selection": "best"}, "one of uniform, round_robin"),
        ({"shrinkage": 0.0}, "shrinkage"),
        ({"lr_policy": "cosine"}, "one of global, restart, rewarm"),
        ({"lr_policy": "rewarm"}, "rewarm_steps = 0: expected at least 1"),
        ({"rewarm_steps": 5}, "rewarm_steps = 5: expected 0, or lr_policy='rewarm'"),
        ({"mode": "merge"}, "one of history, fold, recompress"),
        ({"rank_cap": 0}, "rank_cap"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(MethodError, match=message):
        Chain(**fields)


def test_the_last_booster_is_absorbed_too():
    run = train(Chain(steps_per_round=3), 7)
    assert finished(run) == [3, 3, 3]
    assert not any(
        p.requires_grad for s in run.procedure.boosters.stacks.values() for p in s.parameters
    )
    assert run.model.peft_config["default"].r == 3


def test_metrics():
    run = train(Chain(rounds=3), 6)
    expected = {"round": 3, "mean_rank": 3, "stored_parameters": 3 * (11 + 13 + 11)}
    assert run.metrics == expected


# Selection -----------------------------------------------------------------------------------


def test_unselected_layers_stay_as_they_are():
    run = loop(Chain(rounds=6, layers_per_round=1, selection="round_robin"), 12)
    for step in range(12):
        before = [
            s.layer.get_delta_weight("default").detach()
            for s in run.procedure.boosters.stacks.values()
        ]
        run.train_step(batch(step))
        after = [
            s.layer.get_delta_weight("default").detach()
            for s in run.procedure.boosters.stacks.values()
        ]
        moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert sum(moved) == 1
    run.finish()
    assert finished(run) == [2, 2, 2]


@pytest.mark.parametrize("chosen", [[], ["base_model.model.layers.0"] * 2, ["elsewhere"]])
def test_a_policy_has_to_choose_layers(chosen):
    with pytest.raises(MethodError, match=r"base_model\.model\.layers\.0, "):
        train(Chain(selection=lambda *_: chosen), 2)


def test_nothing_is_kept_below_the_lowest_chosen_layer():
    run = loop(Chain(layers_per_round=1, selection=lambda draw, t, names, n: names[-1:]), 2)
    run.train_step(batch(0))
    layers = run.model.base_model.model.layers
    needs = []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, out: needs.append(out.requires_grad))
    run.train_step(batch(1))
    assert needs == [False, False, True]


def test_too_many_layers():
    with pytest.raises(MethodError, match="lie in 3 layers"):
        loop(Chain(layers_per_round=4), 2)


def test_a_low_expected_rank_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        train(Chain(rounds=2, layers_per_round=1, least_rank=4), 2)
        assert "expected rank of 0.7 a module: 2 rounds of rank 1 on 1 of 3" in caplog.text
        caplog.clear()
        train(Chain(rounds=4, least_rank=4), 4)
        assert not caplog.text


# Absorbing -----------------------------------------------------------------------------------


class Watched(Loop):
    """A loop that keeps the output just before and just after the procedure's after_step."""

    def fire(self, event):
        if event == "after_step":
            before = output(self)
            super().fire(event)
            self.jump = (output(self) - before).abs().max()
        else:
            super().fire(event)


@pytest.mark.parametrize("shrinkage", [1.0, 0.5])
def test_absorbing_moves_the_function_only_by_shrinkage(shrinkage):
    model, method = chained(toy(), Chain(rounds=3, shrinkage=shrinkage), r=1, lora_alpha=2)
    run = Watched(model, method, total_steps=6, lr=1e-1, loss=mean_square)
    for step in range(6):
        run.train_step(batch(step))
        jumps = shrinkage != 1 and step % 2 == 1
        assert (run.jump > 1e-3) if jumps else (run.jump < 1e-14)


def test_a_round_without_learning_changes_nothing():
    def only_second(steps):
        return lambda step: float(2 <= step < 4)

    run = loop(Chain(rounds=3), 6, schedule=only_second)
    start = output(run)
    outputs = []
    for step in range(6):
        run.train_step(batch(step))
        outputs.append(output(run))
    assert torch.equal(outputs[1], start)
    assert not torch.equal(outputs[3], start)
    assert torch.equal(outputs[4], outputs[3])
    torch.testing.assert_close(outputs[5], outputs[3], rtol=1e-14, atol=1e-15)
    assert finished(run) == [1, 1, 1]


@pytest.mark.parametrize("reset", [True, False])
def test_moments_are_forgotten_with_the_booster(reset):
    run = loop(Chain(rounds=2, reset_optimizer=reset), 4)
    live = [p for stack in run.procedure.boosters.stacks.values() for p in stack.parameters]
    for step in range(2):
        run.train_step(batch(step))
    assert [p in run.optimizer.state for p in live] == [not reset] * 6
    run.train_step(batch(2))
    assert all(run.optimizer.state[p]["step"] == (1 if reset else 3) for p in live)


@pytest.mark.parametrize("learning_rate", [1e-2, 1e-3])
def test_the_first_adam_step_of_a_round(learning_rate):
    run = loop(Chain(rounds=3), 6, lr=learning_rate, optimizer=torch.optim.AdamW)
    for step in range(5):
        A = [s.A.live.detach().clone() for s in run.procedure.boosters.stacks.values()]
        run.train_step(batch(step))
        if step % 2 == 0:
            for before, stack in zip(A, run.procedure.boosters.stacks.values(), strict=True):
                assert torch.equal(stack.A.live, before)
                moved = stack.B.live.detach().abs()
                torch.testing.assert_close(
                    moved, torch.full_like(moved, learning_rate), rtol=1e-4, atol=0
                )


def test_parameters_stay_the_same_objects():
    run = loop(Chain(rounds=3), 6)
    live = [p for stack in run.procedure.boosters.stacks.values() for p in stack.parameters]
    for step in range(6):
        run.train_step(batch(step))
    after = [p for stack in run.procedure.boosters.stacks.values() for p in stack.parameters]
    assert all(a is b for a, b in zip(live, after, strict=True))


# Hooks ---------------------------------------------------------------------------------------


def test_rows_of_a_round():
    run = loop(Chain(rounds=2, round_rows=lambda run, round_: range(round_, 9, 2)), 4)
    assert run.procedure.restricts_rows
    assert list(run.procedure.rows(1)) == [1, 3, 5, 7]
    assert loop(Chain(), 4).procedure.rows(0) is None


def test_a_booster_can_start_at_the_gradients_singular_vector():
    def basis(run, round_, name, layer):
        if not run.micro_batches:
            return None
        B = run.procedure.boosters.stacks[name].B.live  # dL/dB = s G A^T; a few rows of A sketch G
        (gradient,) = run.gradients([B], run.micro_batches)
        assert gradient.shape == B.shape
        return torch.ones(1, layer.in_features), torch.zeros_like(B)

    run = train(Chain(rounds=2, round_basis=basis), 4)
    assert finished(run) == [2, 2, 2]


def test_a_booster_may_start_elsewhere():
    def basis(run, round_, name, layer):
        return torch.ones(1, layer.in_features), torch.ones(layer.out_features, 1)

    run = loop(Chain(rounds=1, round_basis=basis), 1, lr=0.0)
    start = output(run)
    run.train_step(batch(0))
    assert not torch.allclose(output(run), start)


# Learning rate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        ({}, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ({"lr_policy": "restart"}, [1, 2 / 3, 1 / 3, 1, 2 / 3, 1 / 3, 1, 1 / 2]),
        (
            {"lr_policy": "rewarm", "rewarm_steps": 2},
            [1, 7 / 8, 6 / 8, 5 / 16, 4 / 8, 3 / 8, 2 / 16, 1 / 8],
        ),
    ],
)
def test_learning_rate_of_every_step(fields, rates):
    run = loop(Chain(rounds=3, **fields), 8, schedule=linear_schedule)
    seen = []
    for step in range(8):
        seen.append(run.optimizer.param_groups[0]["lr"] / 1e-2)
        run.train_step(batch(step))
    assert seen == pytest.approx(rates)


# Long histories --------------------------------------------------------------------------------


def test_folding_does_not_change_a_float64_run():
    runs = [train(Chain(rounds=6, mode=mode, rank_cap=2), 12) for mode in ("history", "fold")]
    assert finished(runs[1]) == [6, 6, 6]
    torch.testing.assert_close(output(runs[0]), output(runs[1]), rtol=1e-10, atol=1e-12)


def test_folding_bounds_the_products_and_ends_with_the_run():
    run = loop(Chain(rounds=6, mode="fold", rank_cap=2), 6)
    products, copies = [], []
    for step in range(6):
        run.train_step(batch(step))
        stack = next(iter(run.procedure.boosters.stacks.values()))
        products.append(stack.A.finished - stack.A.folded)
        copies.append(isinstance(stack.layer.base_layer, WorkingCopy))
    assert products == [1, 2, 0, 1, 2, 0]
    assert copies == [False, False, True, True, True, True]
    run.finish()
    assert not any(isinstance(module, WorkingCopy) for module in run.model.modules())


def test_recompression_holds_the_cap_and_says_what_it_cost():
    exact = train(Chain(rounds=5, mode="recompress", rank_cap=64), 10)
    assert finished(exact) == [5, 5, 4]  # the last layer is at full rank: nothing is lost
    assert exact.metrics["discarded_energy"] < 1e-25
    plain = train(Chain(rounds=5), 10)
    torch.testing.assert_close(output(exact), output(plain), rtol=1e-8, atol=1e-10)

    run = train(Chain(rounds=5, mode="recompress", rank_cap=2), 10)
    assert finished(run) == [2, 2, 2]
    assert run.metrics["discarded_energy"] > 0


@pytest.mark.parametrize("mode", ["history", "fold", "recompress"])
def test_resume_at_every_step_gives_the_same_bits(mode):
    chain = Chain(rounds=5, layers_per_round=2, mode=mode, rank_cap=1)
    straight = train(chain, 10)
    for cut in range(11):
        first = loop(chain, 10)
        for step in range(cut):
            first.train_step(batch(step))
        second = loop(chain, 10)
        second.load_state_dict(first.state_dict())
        for step in range(cut, 10):
            second.train_step(batch(step))
        second.finish()
        assert finished(second) == finished(straight)
        assert torch.equal(output(second), output(straight))
        assert (
            second.metrics.get("discarded_energy") == straight.metrics.get("discarded_energy")
            or cut == 10
        )


@pytest.mark.parametrize(("done", "steps"), [(3, 4), (3, 16), (8, 16)])
def test_a_checkpoint_of_other_rounds_is_refused(done, steps):
    first = loop(Chain(rounds=4), 8)
    for step in range(done):
        first.train_step(batch(step))
    second = loop(Chain(rounds=4), steps)
    second.load_state_dict(first.state_dict())
    with pytest.raises(MethodError, match=r"its rounds end after \[2, 4, 6, 8\] steps"):
        second.begin(steps)


def test_a_longer_run_of_the_same_rounds_goes_on():
    first = loop(Chain(steps_per_round=2), 4)
    for step in range(3):
        first.train_step(batch(step))
    second = loop(Chain(steps_per_round=2), 6)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        second.train_step(batch(step))
    assert finished(second) == [3, 3, 3]


def test_going_back_to_an_earlier_state():
    run = loop(Chain(rounds=5, mode="fold", rank_cap=1), 10)
    for step in range(5):
        run.train_step(batch(step))
    state, then = run.state_dict(), output(run)
    for step in range(5, 10):
        run.train_step(batch(step))
    run.finish()
    run.load_state_dict(state)
    torch.testing.assert_close(output(run), then, rtol=1e-12, atol=1e-14)


# What it cannot work with ------------------------------------------------------------------------


def test_it_needs_stacked_layers():
    class Plain(Chained):
        def slots(self):
            return Slots()

    fields = {"chain": Chain(), "target_modules": r".*\.?\d+", "r": 1}
    with pytest.raises(MethodError, match="takes Slots"):
        Loop(Plain(**fields).apply(toy()), Chained(**fields), total_steps=2, loss=mean_square)


def test_it_brings_the_stacked_layers_along():
    class Bare(Chained):
        def slots(self):
            return Slots(procedure=self.chain)

    fields = {"chain": Chain(rounds=2), "target_modules": r".*\.?\d+", "r": 1}
    runs = []
    for method in (Bare(**fields), Chained(**fields)):
        run = Loop(method.apply(toy()), method, total_steps=4, loss=mean_square)
        for step in range(4):
            run.train_step(batch(step))
        runs.append(run)
    assert torch.equal(*map(output, runs))


def test_it_needs_boosters_that_start_at_zero():
    model, method = chained(toy(), Chain(), r=1)
    model.base_model.model.layers[1].lora_B["default"].live.data.fill_(1.0)
    with pytest.raises(MethodError, match=r"layers\.1 starts at B != 0"):
        Loop(model, method, total_steps=2, loss=mean_square)


def test_it_does_not_fold_a_quantised_base():
    class Codes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 4))
            codes = torch.ones(4, 4, dtype=torch.int8)
            self.layers[0].weight = nn.Parameter(codes, requires_grad=False)

    model, method = chained(Codes(), Chain(mode="fold"), r=1)
    with pytest.raises(MethodError, match="quantised Linear; use mode='history'"):
        Loop(model, method, total_steps=2, loss=mean_square)


def test_an_engine_that_never_steps_is_noticed():
    run = loop(Chain(rounds=2), 2)
    assert run.procedure.needs == {"after_step"}
    assert isinstance(run.slots.layer, StackedLoRA)
