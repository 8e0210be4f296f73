"""What every optimizer of pairs shares, seen on the smallest one."""

from __future__ import annotations

import logging
import types
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import TrainerCallback

from models import batch, classification_rows, same_bits, tiny_bert, tiny_llama
from pair_toy import Momentum, MomentumLoRA, MomentumPart
from rankwright.core.loop import Loop
from rankwright.errors import MethodError, TrainingError
from rankwright.methods import DoRA, LoRA
from rankwright.optimizers import base, named_pairs
from rankwright.procedures.chain.chain import Chain
from rankwright.training.refusals import check_arguments
from trainers import build_trainer

ROWS = classification_rows(24)
BATCHES = [batch(ROWS[i : i + 4]) for i in range(0, 24, 4)]


def backward(model, number=0):
    model.zero_grad()
    model(**BATCHES[number]).loss.backward()


# What moves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [1, 100, 1 << 20])
def test_pairs_of_a_shape_are_stacked_and_the_size_of_a_stack_changes_nothing(monkeypatch, numbers):
    states = []
    for limit in (numbers, 1):
        monkeypatch.setitem(base.BATCH_NUMBERS, "cpu", limit)
        model = LoRA(r=2).apply(tiny_bert())
        optimizer = Momentum.for_model(model, lr=0.1)
        for step in range(3):
            backward(model, step)
            optimizer.step()
        states.append(model.state_dict())
        if limit == 1:
            assert len(optimizer.seen) == 13
        if limit == 1 << 20:  # attention and pooler 32 x 32, and the MLP's two shapes
            assert sorted(map(len, optimizer.seen)) == [2, 2, 9]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-6)


def test_all_else_is_adamw_bit_for_bit():
    method = DoRA(r=2)  # magnitudes and a head
    model, control = method.apply(tiny_bert()), method.apply(tiny_bert())
    optimizer = Momentum.for_model(model, lr=1e-2, weight_decay=0.1)
    factors = {id(p) for pair in named_pairs(control).values() for p in pair}
    named = [(n, p) for n, p in control.named_parameters() if p.requires_grad]
    others = {n: p for n, p in named if id(p) not in factors}
    matrices = [p for n, p in others.items() if p.ndim > 1 and "magnitude" not in n]
    vectors = [p for n, p in others.items() if p.ndim == 1 or "magnitude" in n]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-2,
    )
    trained = dict(model.named_parameters())
    assert len(others) > 13
    for step in range(3):
        backward(model, step)
        for name, parameter in others.items():
            parameter.grad = trained[name].grad.clone()
        optimizer.step()
        adamw.step()
        assert all(torch.equal(trained[name], p) for name, p in others.items())


def test_each_factor_moves_under_its_own_group():
    model = LoRA(r=2).apply(tiny_llama())
    pairs = named_pairs(model)
    groups = [
        {"params": [pair.A for pair in pairs.values()], "lr": 0.0},
        {"params": [pair.B for pair in pairs.values()], "lr": 0.1, "weight_decay": 0.5},
    ]
    optimizer = Momentum(groups, pairs)
    for pair in pairs.values():
        nn.init.ones_(pair.B)
        pair.A.grad, pair.B.grad = torch.ones_like(pair.A), torch.zeros_like(pair.B)
    before = {name: pair.A.clone() for name, pair in pairs.items()}
    optimizer.step()
    for name, pair in pairs.items():
        assert torch.equal(pair.A, before[name])
        torch.testing.assert_close(pair.B, torch.full_like(pair.B, 1 - 0.1 * 0.5))


def test_a_pair_without_gradients_stays_and_gets_no_state():
    model = LoRA(r=2).apply(tiny_llama())
    optimizer = Momentum.for_model(model)
    first, *rest = named_pairs(model).values()
    first.A.grad, first.B.grad = torch.ones_like(first.A), torch.ones_like(first.B)
    optimizer.step()
    assert set(optimizer.state) == set(first)
    assert all(not pair.B.any() for pair in rest)
    assert first.B.any()


def test_a_closure_is_called_with_gradients():
    model = LoRA(r=2).apply(tiny_bert())
    optimizer = Momentum.for_model(model)

    def closure():
        optimizer.zero_grad()
        loss = model(**BATCHES[0]).loss
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)


def test_a_bfloat16_factor_is_moved_in_float32():
    model = LoRA(r=2).apply(tiny_llama()).bfloat16()
    optimizer = Momentum.for_model(model, lr=1.0)
    pair = next(iter(named_pairs(model).values()))
    gradient = torch.randn_like(pair.B)
    pair.A.grad, pair.B.grad = torch.zeros_like(pair.A), gradient
    A = pair.A.detach().double()
    optimizer.step()
    expected = -torch.linalg.solve(A @ A.T + torch.eye(2), gradient.double().T).T
    torch.testing.assert_close(pair.B.double(), expected, rtol=2**-8, atol=0)


# What is refused ---------------------------------------------------------------------------------


def test_half_a_pair_is_refused():
    model = LoRA(r=2).apply(tiny_bert())
    name = next(iter(named_pairs(model)))
    model.get_submodule(name).lora_A["default"].requires_grad_(False)
    with pytest.raises(MethodError, match=rf"of {name} only B is trained; train A too"):
        Momentum.for_model(model)


def test_half_a_gradient_is_refused():
    model = LoRA(r=2).apply(tiny_bert())
    optimizer = Momentum.for_model(model)
    backward(model)
    pair = next(iter(named_pairs(model).values()))
    pair.A.grad = None
    with pytest.raises(TrainingError, match=rf"of {pair.name} only B has a gradient"):
        optimizer.step()


def test_parameters_of_no_pair_are_refused():
    model = LoRA(r=2).apply(tiny_bert())
    with pytest.raises(MethodError, match="the factors of no adapted layer"):
        Momentum(nn.Linear(2, 2).parameters(), named_pairs(model))


def test_parameters_replaced_later_are_refused():
    """What a sharding wrapper does."""
    model = LoRA(r=2).apply(tiny_bert())
    optimizer = Momentum.for_model(model)
    backward(model)
    optimizer.param_groups[0]["params"] = [nn.Parameter(torch.zeros(3))]
    with pytest.raises(TrainingError, match="were replaced after Momentum was built"):
        optimizer.step()


# State -------------------------------------------------------------------------------------------


def test_state_is_plain_tensors_and_keeps_its_dtype(tmp_path):
    model = LoRA(r=2).apply(tiny_bert())
    optimizer = Momentum.for_model(model)
    backward(model)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    again = Momentum.for_model(model)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    kinds = set()
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            assert again.state[parameter][key].dtype == value.dtype
            assert torch.equal(again.state[parameter][key], value)
            kinds.add((key, value.dtype))
    assert ("mean", torch.float64) in kinds
    assert ("exp_avg", torch.float32) in kinds  # of the head


def trained(method, cut=None, lr=1e-2):
    """Six steps of a loop, stopped after `cut` and gone on with anew."""
    run = Loop(method.apply(tiny_bert(dropout=0.1)), method, total_steps=6, lr=lr)
    for step, inputs in enumerate(BATCHES):
        if step == cut:
            state = run.state_dict()
            torch.manual_seed(99)
            model = method.apply(tiny_bert(dropout=0.1), seed=7)
            run = Loop(model, method, total_steps=6, lr=lr)
            run.load_state_dict(state)
        run.train_step(inputs)
    run.finish()
    return run


@pytest.mark.parametrize(
    "chain",
    [
        None,
        Chain(rounds=3),
        Chain(rounds=3, layers_per_round=1),
        Chain(ranks=[1, 2]),
        Chain(ranks=[2, 1, 2], reset_optimizer=False),
    ],
)
def test_resumed_at_any_step_is_never_stopped(chain):
    method = MomentumLoRA(r=2, chain=chain)
    whole = trained(method).model.state_dict()
    for cut in range(1, 6):
        assert same_bits(trained(method, cut).model.state_dict(), whole), cut


def test_ranks_out_of_use_are_not_touched():
    """COLA's rounds of another rank: the rows of A and columns of B beyond it are left alone."""
    method = MomentumLoRA(r=2, chain=Chain(ranks=[1]))
    model = method.apply(tiny_bert())
    before = {name: pair.A[1].clone() for name, pair in named_pairs(model).items()}
    run = Loop(model, method, total_steps=2, lr=1e-2)
    run.train_step(BATCHES[0])
    for name, pair in named_pairs(model).items():
        assert pair.rank == 1
        assert torch.equal(pair.A[1], before[name])
        assert pair.B[:, 0].any()
        assert not pair.B[:, 1].any()


def test_a_chain_makes_it_forget_what_was_absorbed():
    run = trained(MomentumLoRA(r=2, chain=Chain(rounds=3)))
    factors = [factor for pair in MomentumPart.built[0].pairs.values() for factor in pair]
    assert not any(factor in run.optimizer.state for factor in factors)
    assert run.optimizer.state  # of the head


# Engines -----------------------------------------------------------------------------------------


def test_no_optimizer_knows_of_a_trainer():
    files = list(Path(base.__file__).parent.glob("*.py"))
    assert len(files) > 5
    assert [f.name for f in files if "trainer" in f.read_text(encoding="utf-8").lower()] == []


def test_a_scheduler_and_accelerate_take_it_for_any_other():
    expected, found = LoRA(r=2).apply(tiny_bert()), LoRA(r=2).apply(tiny_bert())
    plain = Momentum.for_model(expected, lr=0.1)
    accelerator = Accelerator(cpu=True)
    inner = Momentum.for_model(found, lr=0.1)
    model, wrapped = accelerator.prepare(found, inner)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        for optimizer in (plain, inner)
    ]
    for step in range(3):
        backward(expected, step)
        accelerator.backward(model(**BATCHES[step]).loss)
        for optimizer, schedule in zip((plain, wrapped), schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert same_bits(expected.state_dict(), found.state_dict())
    assert not same_bits(found.state_dict(), LoRA(r=2).apply(tiny_bert()).state_dict())


def test_groups_keep_their_role():
    method = MomentumLoRA(r=2)
    run = Loop(method.apply(tiny_bert()), method, total_steps=1)
    assert {group["role"] for group in run.optimizer.param_groups} == {"lower"}


def gradients_at_step(method, clip, caplog):
    seen = []

    class Watching(Loop):
        def fire(self, event):
            super().fire(event)
            if event == "after_step":
                grads = [p.grad for p in self.trainable().values() if p.grad is not None]
                seen.append(float(torch.stack([g.norm() for g in grads]).norm()))

    run = Watching(method.apply(tiny_bert()), method, total_steps=1, max_grad_norm=clip)
    with caplog.at_level(logging.WARNING):
        run.train_step(BATCHES[0])
    return seen[0]


def test_a_loop_does_not_clip_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        free = gradients_at_step(MomentumLoRA(r=2), None, caplog)
        assert "switched off" not in caplog.text
        assert gradients_at_step(MomentumLoRA(r=2), free / 2, caplog) == free
    assert f"max_grad_norm = {free / 2} is switched off: Momentum" in caplog.text
    assert gradients_at_step(LoRA(r=2), free / 2, caplog) == pytest.approx(free / 2, rel=1e-5)


class Norms(TrainerCallback):
    """The norm of the gradients that the optimizer gets."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        self.seen.append(float(torch.stack(norms).norm()))


@pytest.mark.parametrize("method", [MomentumLoRA(r=2), LoRA(r=2)])
def test_a_trainer_does_not_clip_and_says_so(tmp_path, caplog, method):
    norms = Norms()
    trainer = build_trainer(method, "bert", tmp_path, max_grad_norm=1e-3, callbacks=[norms])
    with caplog.at_level(logging.WARNING):
        trainer.train()
    owns = isinstance(method, MomentumLoRA)
    assert ("max_grad_norm = 0.001 is switched off: Momentum" in caplog.text) == owns
    assert all(norm > 0.01 for norm in norms.seen) == owns
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert all(norm > 0.01 for norm in logged)  # what was measured, clipped or not


def test_a_trainer_takes_one_that_the_user_built(tmp_path, caplog):
    method = LoRA(r=2)
    trainer = build_trainer(method, "bert", tmp_path, max_grad_norm=1e-3)
    trainer.optimizer = Momentum.for_model(trainer.model, lr=1e-2)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "is switched off" in caplog.text


@pytest.mark.parametrize("setting", [{"deepspeed": "zero3.json"}, {"fsdp": ["full_shard"]}])
def test_an_engine_that_shards_is_refused(setting):
    fine = {"n_gpu": 1, "deepspeed": None, "fsdp": [], "fp16": True}
    check_arguments(types.SimpleNamespace(**fine), MomentumLoRA(r=2))
    with pytest.raises(MethodError, match="the optimizer of momentum needs whole factors"):
        check_arguments(types.SimpleNamespace(**{**fine, **setting}), MomentumLoRA(r=2))
