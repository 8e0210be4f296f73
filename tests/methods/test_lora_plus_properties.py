"""LoRA+: which parameter learns at which rate, and the slips of PEFT's grouping beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from models import batch, classification_rows, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop, constant_schedule
from rankwright.layers import Dora
from rankwright.methods import DoRA, LoRA, LoRAPlus
from rankwright.optimizers import LoraPlus
from rankwright.procedures.chain.chain import Chain
from trainers import build_trainer

ROWS = classification_rows(24)
BATCHES = [batch(ROWS[i : i + 4]) for i in range(0, 24, 4)]


def rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Learning rate by parameter name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}


def loop(method: Any, **options: Any) -> Loop:
    options = {"total_steps": 6, "lr": 1e-3, "schedule": constant_schedule, **options}
    return Loop(method.apply(tiny_bert()), method, **options)


def trained(method: Any, steps: int = 4, **options: Any) -> dict[str, torch.Tensor]:
    run = loop(method, **options)
    for inputs in BATCHES[:steps]:
        run.train_step(inputs)
    return run.model.state_dict()


def test_ratio_1_is_lora_bit_for_bit() -> None:
    options = {"weight_decay": 0.1, "max_grad_norm": 0.5}
    plus, plain = trained(LoRAPlus(lr_ratio=1.0), **options), trained(LoRA(), **options)
    assert same_bits(plus, plain)
    assert not same_bits(trained(LoRAPlus(), **options), plain)


def test_under_sgd_the_ratio_is_a_factor_on_the_gradient_of_b() -> None:
    run = loop(LoRAPlus(lr_ratio=4.0), optimizer=torch.optim.SGD)
    control = LoRA().apply(tiny_bert())
    sgd = torch.optim.SGD([p for p in control.parameters() if p.requires_grad], lr=1e-3)
    for inputs in BATCHES[:3]:
        run.train_step(inputs)
        sgd.zero_grad()
        control(**inputs).loss.backward()
        for name, parameter in control.named_parameters():
            if "lora_B" in name:
                parameter.grad *= 4
        sgd.step()
    for name, value in control.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value, rtol=1e-5, atol=1e-8)


def test_the_first_step_of_b_is_as_many_times_larger() -> None:
    found = {}
    for ratio in (1.0, 8.0):
        state = trained(LoRAPlus(lr_ratio=ratio), steps=1)
        found[ratio] = {name: value for name, value in state.items() if "lora_B" in name}
    for name, value in found[1.0].items():
        torch.testing.assert_close(found[8.0][name], 8 * value, rtol=1e-5, atol=1e-9)
        assert float(value.abs().max()) == pytest.approx(1e-3, rel=0.1)


def test_only_the_factors_b_have_the_higher_rate(tmp_path: Path) -> None:
    """PEFT gives it to every vector too, and takes the head for a factor A."""
    method = LoRAPlus(lr_ratio=4.0).with_parts(layer=Dora())
    trainer = build_trainer(
        method, "bert", tmp_path, learning_rate=1e-3, options={"head_learning_rate": 0.5}
    )
    found = rates(trainer.model, trainer.create_optimizer())
    for name, rate in found.items():
        expected = 4e-3 if "lora_B" in name else 0.5 if "classifier" in name else 1e-3
        assert rate == expected, name
    assert sum("magnitude" in name for name in found) == 13

    options = {"optimizer_cls": torch.optim.AdamW, "lr": 1e-3, "loraplus_lr_ratio": 4.0}
    peft = rates(trainer.model, create_loraplus_optimizer(trainer.model, **options))
    wrong = {name for name in found if peft[name] != (4e-3 if "lora_B" in name else 1e-3)}
    assert wrong == {n for n in found if "magnitude" in n or n.endswith(".default.bias")}


def test_both_factors_of_an_embedding_keep_the_rate() -> None:
    """PEFT trains them at 1e-6, whatever the learning rate."""
    method = LoRAPlus(lr_ratio=4.0, r=2, target_modules=["embed_tokens", "q_proj"])
    run = Loop(method.apply(tiny_llama()), method, total_steps=1, lr=1e-3)
    found = rates(run.model, run.optimizer)
    embedding = {rate for name, rate in found.items() if "embedding" in name}
    assert embedding == {1e-3}
    assert set(found.values()) == {1e-3, 4e-3}

    options = {"optimizer_cls": torch.optim.AdamW, "lr": 1e-3, "loraplus_lr_ratio": 4.0}
    peft = rates(run.model, create_loraplus_optimizer(run.model, **options))
    assert {rate for name, rate in peft.items() if "embedding" in name} == {1e-6}


def test_weight_decay_is_that_of_each_kind_of_parameter(tmp_path: Path) -> None:
    trainer = build_trainer(LoRAPlus(), "bert", tmp_path, weight_decay=0.1)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), names[
                id(parameter)
            ]


def test_the_schedule_keeps_the_ratio(tmp_path: Path) -> None:
    trainer = build_trainer(
        LoRAPlus(lr_ratio=4.0), "bert", tmp_path, lr_scheduler_type="cosine", warmup_steps=3
    )
    seen = []
    trainer.create_optimizer_and_scheduler(8)
    for _ in range(8):
        found = rates(trainer.model, trainer.optimizer)
        seen.append({name: rate for name, rate in found.items() if "query" in name})
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    for step in seen:
        for name, rate in step.items():
            if "lora_B" in name:
                assert rate == pytest.approx(4 * step[name.replace("lora_B", "lora_A")])
    assert len({max(step.values()) for step in seen}) > 4


@pytest.mark.parametrize(("optim", "cls"), [("sgd", "SGD"), ("adafactor", "Adafactor")])
def test_the_optimizer_is_the_one_asked_for(tmp_path: Path, optim: str, cls: str) -> None:
    trainer = build_trainer(LoRAPlus(), "bert", tmp_path, optim=optim)
    assert type(trainer.create_optimizer()).__name__ == cls


def test_every_link_of_a_chain_learns_at_two_rates() -> None:
    method = LoRA(r=2).with_parts(optimizer=LoraPlus(4.0), procedure=Chain(rounds=2))
    run = loop(method, total_steps=4)
    for step, inputs in enumerate(BATCHES[:4]):
        run.train_step(inputs)
        found = rates(run.model, run.optimizer)
        assert {rate for name, rate in found.items() if "lora_B" in name} == {4e-3}, step
        assert {rate for name, rate in found.items() if "lora_B" not in name} == {1e-3}


def test_it_goes_onto_other_methods() -> None:
    run = loop(DoRA(r=2).with_parts(optimizer=LoraPlus(4.0)))
    losses = [run.train_step(inputs) for inputs in BATCHES]
    assert losses[-1] != losses[0]
    found = rates(run.model, run.optimizer)
    assert {rate for name, rate in found.items() if "lora_B" in name} == {4e-3}
