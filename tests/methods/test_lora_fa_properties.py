"""LoRA-FA: A stays, B moves along the projected gradient, nothing waits on A's behalf."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.optimizers.lorafa import create_lorafa_optimizer
from torch import Tensor, nn

from chain_toy import Tanh, mean_square
from models import batch, classification_rows, tiny_bert, tiny_llama
from rankwright.core.loop import Loop, constant_schedule
from rankwright.errors import MethodError
from rankwright.methods import DoRA, LoRA, LoRAFA
from rankwright.optimizers import LoraFa, named_pairs, project_gradients
from rankwright.procedures.perturbation import Perturbation

ROWS = classification_rows(24)
BATCHES = [batch(ROWS[i : i + 4]) for i in range(0, 24, 4)]
LINEAR = r".*\.?\d+"


def factors(model: nn.Module, side: str) -> dict[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if f"lora_{side}" in n}


def toy(method: Any, *, dtype: torch.dtype = torch.float64, **options: Any) -> Loop:
    """One linear layer 12 -> 10 under SGD, and what it is to learn."""
    torch.manual_seed(0)
    model = method.apply(Tanh([torch.randn(10, 12, dtype=dtype)])).to(dtype)
    settings = {"optimizer": torch.optim.SGD, "schedule": constant_schedule, "lr": 1.0, **options}
    return Loop(model, method, total_steps=4, loss=mean_square, **settings)


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(32, n, generator=generator, dtype=dtype) for n in (12, 10))
    return x, y


def test_a_never_changes_and_stays_frozen() -> None:
    method = LoRAFA(r=2)
    run = Loop(method.apply(tiny_bert()), method, total_steps=6, lr=1e-2, weight_decay=0.5)
    start = {name: A.clone() for name, A in factors(run.model, "A").items()}
    for inputs in BATCHES:
        run.train_step(inputs)
        with run.model.disable_adapter():  # which lets PEFT enable the adapter again
            run.model(**inputs)
        run.model.set_adapter("default")
    assert all(torch.equal(A, start[name]) for name, A in factors(run.model, "A").items())
    assert not any(A.requires_grad for A in factors(run.model, "A").values())
    assert all(B.requires_grad and B.any() for B in factors(run.model, "B").values())


def test_the_weight_moves_along_the_projected_gradient() -> None:
    """One step of SGD with rate 1: W1 - W0 = -G P_A, whatever s."""
    x, y = data()
    for alpha in (1.0, 8.0):
        run = toy(LoRAFA(r=3, lora_alpha=alpha, target_modules=LINEAR, delta=0.0))
        (pair,) = named_pairs(run.model).values()
        error = run.model(x) - y
        G = (2 / error.numel()) * error.detach().T @ x
        run.train_step((x, y))
        A = pair.A.detach()
        moved = pair.scaling * pair.B.detach() @ A
        torch.testing.assert_close(moved, -G @ torch.linalg.pinv(A) @ A, rtol=1e-12, atol=1e-12)


def moved_after_three(R: Tensor | None, projected: bool = True) -> Tensor:
    run = toy(LoRAFA(r=3, target_modules=LINEAR, delta=0.0, projected=projected), lr=0.5)
    (pair,) = named_pairs(run.model).values()
    if R is not None:
        with torch.no_grad():
            pair.A.copy_(R @ pair.A)
    for _ in range(3):
        run.train_step(data())
    return (pair.scaling * pair.B @ pair.A).detach()


def test_the_step_does_not_depend_on_how_a_is_written() -> None:
    R = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(moved_after_three(R), moved_after_three(None))
    assert not torch.allclose(moved_after_three(R, False), moved_after_three(None, False))


def test_not_projected_is_lora_with_a_frozen_bit_for_bit() -> None:
    method = LoRAFA(r=2, projected=False)
    run = Loop(method.apply(tiny_bert()), method, total_steps=6, lr=1e-2)
    control = LoRA(r=2).apply(tiny_bert())
    for A in factors(control, "A").values():
        A.requires_grad_(False)
    plain = Loop(control, LoRA(r=2), total_steps=6, lr=1e-2)
    for inputs in BATCHES:
        assert run.train_step(inputs) == plain.train_step(inputs)


def test_the_scaling_of_every_layer_is_its_own() -> None:
    """With B's step in one layer only: s gB A is G P_A in each, r, alpha and rsLoRA apart."""
    method = LoRAFA(
        r=2, rank_pattern={"query": 4}, alpha_pattern={"value": 32.0}, use_rslora=True, delta=0.0
    )
    run = Loop(
        *(method.apply(tiny_bert().double()), method),
        total_steps=1,
        lr=1.0,
        optimizer=torch.optim.SGD,
        schedule=constant_schedule,
    )
    pairs = named_pairs(run.model)
    assert {round(pair.scaling, 3) for pair in pairs.values()} == {8.0, 11.314, 22.627}
    run.model(**BATCHES[0]).loss.backward()
    raw = {name: pair.B.grad.clone() for name, pair in pairs.items()}
    run.optimizer.step()
    for name, pair in pairs.items():
        A, s = pair.A.detach(), pair.scaling
        expected = -raw[name] / s @ torch.linalg.inv(A @ A.T) @ A  # of hB = s G A^T
        torch.testing.assert_close(s * pair.B.detach() @ A, expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(pair.B.grad, raw[name])  # put back


def test_no_input_of_a_layer_waits_for_the_gradient_of_a() -> None:
    """What it saves: x (tokens, in) is kept for A's gradient, and A x^T (r, tokens) for B's."""
    kept = {}
    for method in (LoRA(r=3, target_modules=LINEAR), LoRAFA(r=3, target_modules=LINEAR)):
        model, shapes = method.apply(Tanh([torch.randn(10, 12)])), []
        x = torch.randn(7, 12)

        def pack(tensor: Tensor, shapes: list[torch.Size] = shapes) -> Tensor:
            shapes.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(x).sum().backward()
        kept[method.name] = shapes
    assert (7, 12) in kept["lora"]
    assert (7, 12) not in kept["lora_fa"]
    assert (3, 7) in kept["lora_fa"]


def stepped(build: Any) -> Tensor:
    """B after one step of a bfloat16-capable machine's optimizer on a fixed gradient."""
    torch.manual_seed(0)
    model = LoRA(r=4, target_modules=LINEAR).apply(Tanh([torch.randn(64, 48)]))
    optimizer, (pair,) = build(model), named_pairs(model).values()
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        pair.B.grad = torch.randn(pair.B.shape, generator=generator).to(pair.B.dtype)
        optimizer.step()
    return pair.B.detach().double()


def ours(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    pairs = named_pairs(model.to(dtype))
    optimizer = torch.optim.AdamW([p.B for p in pairs.values()], lr=1e-3, eps=1e-6, weight_decay=0)
    project_gradients(optimizer, pairs)
    return optimizer


def test_the_projection_is_not_rounded_to_bfloat16() -> None:
    """PEFT's runs under bfloat16 autocast wherever the machine has it: 1e-3 off."""

    def peft(model: nn.Module) -> torch.optim.Optimizer:
        return create_lorafa_optimizer(model, r=4, lora_alpha=16, lr=1e-3)

    exact = stepped(lambda model: ours(model, torch.float64))
    scale = float(exact.norm())
    assert float((stepped(ours) - exact).norm()) < 1e-5 * scale
    assert float((stepped(peft) - exact).norm()) > 1e-4 * scale


def test_a_loaded_a_is_the_one_projected_on() -> None:
    """A checkpoint is loaded after the optimizer is built."""
    x, y = data()
    run = toy(LoRAFA(r=3, target_modules=LINEAR, delta=0.0))
    (pair,) = named_pairs(run.model).values()
    run.train_step((x, y))
    with torch.no_grad():
        pair.A.copy_(torch.randn_like(pair.A))
        pair.B.zero_()
    run.train_step((x, y))
    A = pair.A.detach()
    G = (2 / y.numel()) * (x @ run.model.get_base_model().layers[0].base_layer.weight.T - y).T @ x
    moved = pair.scaling * pair.B.detach() @ A
    torch.testing.assert_close(moved, -(G @ torch.linalg.pinv(A) @ A).detach())


def test_it_works_with_noise_on_the_weights() -> None:
    method = LoRAFA(r=2).with_parts(procedure=Perturbation(rho=0.1))
    run = Loop(method.apply(tiny_bert()), method, total_steps=3, lr=1e-2)
    assert len({run.train_step(inputs) for inputs in BATCHES[:3]}) == 3


def test_the_part_brings_the_frozen_factor_along() -> None:
    model = LoRA(r=2).with_parts(optimizer=LoraFa()).apply(tiny_llama())
    assert not any(A.requires_grad for A in factors(model, "A").values())
    with pytest.raises(MethodError, match="lora_fa works on the layer frozen_a, and dora has dora"):
        DoRA(r=2).with_parts(optimizer=LoraFa()).apply(tiny_llama())


def test_an_embedding_is_refused() -> None:
    with pytest.raises(MethodError, match=r"embed_tokens is an embedding, whose A starts at zero"):
        LoRAFA(r=2, target_modules=["embed_tokens", "q_proj"]).apply(tiny_llama())
