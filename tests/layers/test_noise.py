"""Noise on the effective weight: its distribution, its gradients, and what is kept of it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from rankwright.algebra.row_norms import row_norm_sq
from rankwright.errors import MethodError
from rankwright.kernels.fused_linear import fuse, plain_layers
from rankwright.kernels.seeded_noise import Noise
from rankwright.layers import effective_weight, use_factored_dora
from rankwright.layers.noise import add_noise, check_noise, row_std
from rankwright.methods import LoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.weight_view import base_rows

OUT, IN = 6, 5


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def adapted(W: Tensor, A: Tensor, B: Tensor, **options: Any) -> Any:
    """A LoRA layer with s = 1, in training mode."""
    out, in_ = W.shape
    linear = nn.Linear(in_, out, dtype=W.dtype)
    linear.weight.data.copy_(W)
    config = LoraConfig(r=len(A), lora_alpha=len(A), target_modules=["0"], **options)
    model = get_peft_model(nn.Sequential(linear), config).train()
    if options.get("use_dora"):
        use_factored_dora(model)
    layer = model.base_model.model[0]
    layer.lora_A["default"].weight.data.copy_(A)
    layer.lora_B["default"].weight.data.copy_(B)
    return layer


def random_layer(**options: Any) -> Any:
    return adapted(random(OUT, IN), random(2, IN, seed=1), random(OUT, 2, seed=2), **options)


def fused(layer: Any) -> Any:
    """The same layer as methods have it: what can add the noise to a copy of its weight does."""
    fuse(nn.Sequential(layer))
    return layer


def std_of(layer: Any, strength: float) -> Tensor:
    return row_std(layer, "default", strength, row_norm_sq(base_rows(layer)))


def noise_of(layer: Any, seed: int = 4, strength: float = 0.3) -> Noise:
    return Noise(seed, std_of(layer, strength), layer.in_features)


# Its size ----------------------------------------------------------------------------------------


def test_two_by_two() -> None:
    W = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    layer = adapted(W, torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(std_of(layer, 0.1), torch.tensor([0.35355339, 0.28284271]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
def test_std_is_that_of_the_rows_of_the_effective_weight(dtype: torch.dtype, dora: bool) -> None:
    options = {"use_dora": True} if dora else {}
    W = random(OUT, IN).to(dtype)
    layer = adapted(W, random(2, IN, seed=1), random(OUT, 2, seed=2), **options)
    if dora:  # trained
        layer.lora_magnitude_vector["default"].weight.data.mul_(1.5)
    norms = torch.linalg.vector_norm(effective_weight(layer, "default"), dim=1)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(std_of(layer, 0.2), 0.2 / IN**0.5 * norms, rtol=rtol, atol=0)


def test_scale_permutation_and_factorisation() -> None:
    W, A, B = random(OUT, IN), random(2, IN, seed=1), random(OUT, 2, seed=2)
    std = std_of(adapted(W, A, B), 0.1)
    order, R = torch.randperm(OUT), random(2, 2, seed=3)
    torch.testing.assert_close(std_of(adapted(3 * W, A, 3 * B), 0.1), 3 * std)
    torch.testing.assert_close(std_of(adapted(W[order], A, B[order]), 0.1), std[order])
    torch.testing.assert_close(std_of(adapted(W, R @ A, B @ R.inverse()), 0.1), std)


def test_a_zero_row_gets_no_noise() -> None:
    W, B = random(OUT, IN), torch.zeros(OUT, 2, dtype=torch.float64)
    W[2] = 0
    noise = noise_of(adapted(W, random(2, IN, seed=1), B))
    assert noise.draw(torch.float64)[2].abs().max() == 0


def test_moments_of_the_draw() -> None:
    draws, strength = 4000, 0.3
    layer = random_layer()
    std = std_of(layer, strength)
    eps = torch.stack([Noise(seed, std, IN).draw(torch.float64) for seed in range(draws)])
    found = eps.square().mean((0, 2)).sqrt()
    assert ((found / std - 1).abs() < 5 / (2 * draws * IN) ** 0.5).all()
    assert (eps.mean(0).abs() < 5 * std[:, None] / draws**0.5).all()
    z = (eps / std[:, None]).flatten(1)
    correlation = z.T @ z / draws - torch.eye(OUT * IN, dtype=torch.float64)
    assert correlation.fill_diagonal_(0).abs().max() < 6 / draws**0.5
    assert ((z**4).mean() - 3).abs() < 0.1  # Gaussian: kurtosis 3


def test_white_inputs_gain_one_plus_strength_squared() -> None:
    out = in_ = 256
    layer = adapted(random(out, in_), random(2, in_, seed=1), random(out, 2, seed=2))
    x = random(2000, in_, seed=3)
    layer.get_base_layer().bias.data.zero_()
    clean = layer(x).var(0)
    handle = add_noise(layer, "default", lambda: noise_of(layer, strength=0.3))
    assert float((layer(x).var(0) / clean).mean().detach()) == pytest.approx(1.09, abs=0.02)
    handle.remove()


# Its gradients -----------------------------------------------------------------------------------


def gradients(layer: Any, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    trained = [p for p in layer.parameters() if p.requires_grad]
    return list(torch.autograd.grad(layer(x).square().sum(), [x, *trained]))


@pytest.mark.parametrize("how", [lambda layer: layer, fused], ids=["peft", "fused"])
@pytest.mark.parametrize("dora", [False, True])
def test_gradients_are_those_at_the_perturbed_weight(dora: bool, how: Callable[[Any], Any]) -> None:
    """Of LoRA: at base W + eps. Of DoRA: eps comes after the magnitude, as a constant."""
    layer, x = random_layer(use_dora=dora), random(3, 2, IN, seed=5)
    noise = noise_of(layer)
    eps = noise.draw(torch.float64)
    handle = add_noise(how(layer), "default", lambda: noise)
    found = gradients(layer, x)
    handle.remove()
    clean = layer.forward
    layer.forward = lambda x: clean(x) + x @ eps.T
    expected = gradients(layer, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_lora_under_noise_is_lora_on_the_perturbed_base() -> None:
    layer, x = random_layer(), random(3, IN, seed=5)
    noise = noise_of(layer)
    handle = add_noise(layer, "default", lambda: noise)
    found = gradients(layer, x)
    handle.remove()
    with torch.no_grad():
        layer.get_base_layer().weight += noise.draw(torch.float64)
    for a, b in zip(found, gradients(layer, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", [lambda layer: layer, fused], ids=["peft", "fused"])
def test_gradcheck_twice(how: Callable[[Any], Any]) -> None:
    layer = how(random_layer())
    handle = add_noise(layer, "default", lambda: noise_of(layer))
    x = random(2, IN, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), x)
    handle.remove()


def test_on_average_the_gradient_of_a_quadratic_loss_is_the_clean_one() -> None:
    draws = 400
    layer, x = random_layer(), random(3, IN, seed=5)
    clean, seeds = gradients(layer, x)[1:], iter(range(draws))
    std = std_of(layer, 0.3)
    clean_loss = float(layer(x).square().sum().detach())
    found, losses = [], []
    for seed in seeds:
        handle = add_noise(layer, "default", lambda seed=seed: Noise(seed, std, IN))
        found.append(torch.cat([g.flatten() for g in gradients(layer, x)[1:]]))
        losses.append(layer(x).square().sum().detach())
        handle.remove()
    sample = torch.stack(found)
    error = sample.std(0) / draws**0.5
    expected = torch.cat([g.flatten() for g in clean])
    assert ((sample.mean(0) - expected).abs() < 4 * error).all()
    excess = torch.stack(losses) - clean_loss
    expected_excess = float(std.square().sum() * x.square().sum())
    assert abs(float(excess.mean()) - expected_excess) < 4 * float(excess.std()) / draws**0.5


def test_noise_is_added_to_the_weight_where_it_can_be_and_to_the_output_elsewhere() -> None:
    """Never twice, whatever came before."""
    layer, x = fused(random_layer()), random(3, IN, seed=5)
    noise, ways = noise_of(layer), []
    eps, clean = noise.draw(torch.float64), layer.eval()(x)
    handle = add_noise(layer.train(), "default", lambda: noise)
    for way in (contextlib.nullcontext, plain_layers, contextlib.nullcontext):
        with way():
            torch.testing.assert_close(layer(x), clean + x @ eps.T, rtol=1e-12, atol=1e-12)
        ways.append(layer.has_noise)
    assert ways == [True, False, True]
    assert torch.equal(layer.eval()(x), clean)
    handle.remove()
    assert torch.equal(layer.train()(x), clean)


def test_projections_of_one_input_have_a_noise_each(llama_folder: Path) -> None:
    model = LoRA(target_modules=["q_proj", "k_proj", "v_proj"]).apply(
        AutoModelForCausalLM.from_pretrained(llama_folder)
    )
    layers = adapted_layers(model.train())
    noises = {name: noise_of(layer, seed=i) for i, (name, layer) in enumerate(layers.items())}
    handles = [add_noise(m, "default", lambda n=n: noises[n]) for n, m in layers.items()]
    ids = torch.arange(12).reshape(2, 6)
    found = model(ids).logits
    assert all(layer.has_noise for layer in layers.values())
    with plain_layers():
        torch.testing.assert_close(model(ids).logits, found)
    for handle in handles:
        handle.remove()
    assert not torch.allclose(model(ids).logits, found)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_recomputed_forward_has_the_same_noise(use_reentrant: bool) -> None:
    layer, x = fused(random_layer()), random(3, IN, seed=5).requires_grad_()
    handle = add_noise(layer, "default", lambda: noise_of(layer))
    grads = []
    for forward in (layer, lambda x: checkpoint(layer, x, use_reentrant=use_reentrant)):
        layer.zero_grad()
        forward(x).square().sum().backward()
        grads.append([p.grad for p in layer.parameters() if p.requires_grad])
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


# Where it is, and where not ----------------------------------------------------------------------


def test_only_the_active_adapter_in_training_mode_is_perturbed() -> None:
    layer, x = random_layer(), random(3, IN, seed=5)
    clean = layer(x)
    layer.enable_adapters(False)
    base = layer(x)
    layer.enable_adapters(True)
    handle = add_noise(layer, "default", lambda: noise_of(layer))
    assert not torch.equal(layer(x), clean)
    assert torch.equal(layer.eval()(x), clean)
    layer.train().enable_adapters(False)
    assert torch.equal(layer(x), base)
    layer.enable_adapters(True)
    handle.remove()
    assert torch.equal(layer(x), clean)
    assert not layer._forward_hooks


def test_a_bfloat16_base_is_perturbed_by_less_than_it_can_store() -> None:
    """W + eps in bfloat16 loses most of a noise of 0.1 %; its own product does not."""
    out = in_ = 64
    W = random(out, in_).bfloat16()
    layer = adapted(W, torch.zeros(2, in_), torch.zeros(out, 2))
    noise = noise_of(layer, strength=1e-3)
    x = random(32, in_, seed=5).bfloat16()
    eps = noise.draw(torch.float32)
    expected = x.float() @ eps.T
    handle = add_noise(layer, "default", lambda: noise)
    handle.remove()
    product = (x @ noise.draw(torch.bfloat16).T).float()
    swallowed = x.float() @ ((W.float() + eps).bfloat16().float() - W.float()).T
    assert float((product - expected).norm() / expected.norm()) < 0.01
    assert float((swallowed - expected).norm() / expected.norm()) > 0.5
    assert layer(x).dtype == torch.bfloat16


def test_the_draw_is_a_function_of_its_seed_and_leaves_the_global_state_alone() -> None:
    layer = random_layer()
    before = torch.get_rng_state()
    first, again, other = (noise_of(layer, seed).draw(torch.float32) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["embedding", "convolution"])
def test_other_layers_are_refused(kind: str) -> None:
    module = nn.Embedding(7, 5) if kind == "embedding" else nn.Conv2d(3, 4, 3)
    model = get_peft_model(nn.Sequential(module), LoraConfig(target_modules=["0"], r=2))
    with pytest.raises(MethodError, match=r"block is a (Embedding|Conv2d); noise .*linear layers"):
        check_noise("block", model.base_model.model[0])


# Memory ------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many noise matrices were alive each time that one was made."""
    alive: list[weakref.ref[Tensor]] = []
    counts: list[int] = []
    draw = Noise.draw

    def counted(noise: Noise, dtype: torch.dtype) -> Tensor:
        counts.append(sum(reference() is not None for reference in alive))
        eps = draw(noise, dtype)
        alive.append(weakref.ref(eps))
        return eps

    monkeypatch.setattr(Noise, "draw", counted)
    yield counts
    assert not any(reference() is not None for reference in alive)


@pytest.mark.parametrize("how", [lambda model: None, fuse], ids=["peft", "fused"])
def test_nothing_of_the_size_of_a_weight_is_kept(
    drawn: list[int], how: Callable[[nn.Module], None]
) -> None:
    size, tokens_, layers = 96, 3, 4
    model = nn.Sequential(*(nn.Linear(size, size) for _ in range(layers)))
    config = LoraConfig(r=2, target_modules=[str(i) for i in range(layers)])
    adapted_model = get_peft_model(model, config).train()
    how(adapted_model)
    modules = list(adapted_model.base_model.model)
    x = torch.randn(tokens_, size, requires_grad=True)

    def saved_numbers() -> int:
        """Numbers that wait for the backward pass and belong to no parameter."""
        seen: dict[int, int] = {}
        own = {p.data_ptr() for p in adapted_model.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                seen[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = adapted_model(x).square().sum()
        loss.backward()
        return sum(seen.values())

    clean = saved_numbers()
    for module in modules:
        noise = noise_of(module)
        add_noise(module, "default", lambda noise=noise: noise)
    assert saved_numbers() <= clean + layers * size < clean + size * size
    assert drawn == [0] * (2 * layers)  # forward and backward, one at a time
