"""Norms, activations and gated MLPs keep less for the backward, and compute the same."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, Wav2Vec2Config
from transformers.activations import ReLUSquaredActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2EncoderLayerStableLayerNorm

from benchmarks.meters import saved_bytes
from models import batch, rows_for, tiny_bert, tiny_llama, trained
from rankwright.kernels import lowrank, recomputation
from rankwright.kernels.blocks import FORWARDS, prepare, release
from rankwright.kernels.elementwise import gated, rms_norm
from rankwright.kernels.fused_linear import plain_layers
from rankwright.kernels.recomputation import note, origin_of
from rankwright.methods import DoRA, LoRA
from rankwright.peft_layers.layers import adapted_layers


def gradients(model: Any, create_graph: bool = False) -> list[Tensor]:
    loss = model(**batch(rows_for(model.get_base_model(), 3))).loss
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [loss, *torch.autograd.grad(loss, parameters, create_graph=create_graph)]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The inputs of layers that are computed again."""
    found: list[Any] = []
    again = recomputation.Origin.again

    def noted(origin: Any, inputs: Any) -> Tensor:
        found.append(origin)
        return again(origin, inputs)

    with monkeypatch.context() as patched:
        patched.setattr(recomputation.Origin, "again", noted)
        yield found


# The same gradients ------------------------------------------------------------------------------


BOTH = [torch.float32, torch.float64]
CLOSE = {torch.float32: {"rtol": 1e-4, "atol": 1e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-15}}


@pytest.mark.parametrize("method", [LoRA(r=4), LoRA(r=4, lora_dropout=0.3), DoRA(r=4)])
@pytest.mark.parametrize(
    ("build", "dtype", "again"),
    # what q, k and v of the lowest layer see has no origin: nothing below it is differentiated
    [
        *((tiny_bert, dtype, 2 * 3 - 1) for dtype in BOTH),
        (tiny_llama, torch.float32, 3 * 3 - 1),
        (tiny_llama, torch.float64, 3),
    ],
)
def test_what_is_kept_instead_gives_the_same_gradients(
    build: Any, dtype: torch.dtype, again: int, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(build, method, dtype)
    torch.manual_seed(0)
    with counted(monkeypatch) as computed_again:
        ours = gradients(model)
    assert len(computed_again) == again
    release(model)
    torch.manual_seed(0)
    with counted(monkeypatch) as computed_again:
        kept = gradients(model)
    assert computed_again == []
    for found, expected in zip(ours, kept, strict=True):
        torch.testing.assert_close(found, expected, **CLOSE[dtype])


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_under_autocast(build: Any) -> None:
    model = trained(build, LoRA(r=4), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch(rows_for(model.get_base_model(), 3))).loss
    ours = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    release(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch(rows_for(model.get_base_model(), 3))).loss
    kept = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    for found, expected in zip(ours, kept, strict=True):
        torch.testing.assert_close(
            found, expected, rtol=0.02, atol=1e-2 * float(expected.abs().max())
        )


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_gradient_checkpointing(reentrant: bool) -> None:
    model = trained(tiny_llama, DoRA(r=4))
    expected = gradients(model)
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    loss = model(**batch(rows_for(model.get_base_model(), 3))).loss
    loss.backward()
    found = [p.grad for p in model.parameters() if p.requires_grad]
    for one, other in zip(found, expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


# Llama's norms compute in float32
@pytest.mark.parametrize(("build", "rtol"), [(tiny_bert, 1e-9), (tiny_llama, 1e-3)])
def test_differentiated_twice(build: Any, rtol: float) -> None:
    """Also through the inputs that were not kept."""
    model = trained(build, LoRA(r=4))
    model.set_attn_implementation("eager")
    parameters = [p for p in model.parameters() if p.requires_grad]

    def second() -> tuple[Tensor, ...]:
        _, *first = gradients(model, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), parameters)

    ours = second()
    with plain_layers():
        plain = second()
    assert any(bool(g.abs().max() > 0) for g in ours)
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * 1e-3)


@pytest.mark.parametrize("act", [F.silu, F.gelu, torch.tanh, torch.relu])
def test_gated_against_finite_differences(act: Any) -> None:
    torch.manual_seed(0)
    g, u = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *pair: gated(act, *pair), (g, u))
    assert torch.autograd.gradgradcheck(lambda *pair: gated(act, *pair), (g, u))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_against_transformers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(16, eps=1e-3).to(dtype).requires_grad_(False)
    norm.weight.normal_()
    h = torch.randn(3, 5, 16, dtype=dtype, requires_grad=True)
    expected, found = norm(h), rms_norm(h, norm.weight, norm.variance_epsilon)
    assert torch.equal(found, expected)
    grad = torch.randn_like(h)
    once = [torch.autograd.grad(y, h, grad, create_graph=True)[0] for y in (found, expected)]
    (mine,) = torch.autograd.grad(found, h, grad, retain_graph=True)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(mine, once[1].detach(), **close)
    torch.testing.assert_close(*once, **close)
    twice = [torch.autograd.grad(first.square().sum(), h)[0] for first in once]
    torch.testing.assert_close(*twice, **close)


@pytest.mark.parametrize("name", sorted(FORWARDS))
def test_every_class_that_is_known_computes_as_its_own_forward(name: str) -> None:
    module = built(name).requires_grad_(False)
    x = torch.randn(5, 8, requires_grad=True)
    expected = module(x)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    prepare(module)
    assert type(module).forward is not type(module).own.forward
    found = module(x)
    (grad,) = torch.autograd.grad(found.square().sum(), x)
    assert torch.equal(found, expected)
    torch.testing.assert_close(grad, expected_grad)
    assert torch.equal(module(x.detach()), expected)


def built(name: str) -> Any:
    """A module of the class of this name."""
    place, _, kind = name.rpartition(".")
    torch.manual_seed(0)
    of_name = getattr(importlib.import_module(place), kind)
    if kind.endswith("Norm"):
        return of_name(8)
    config = PretrainedConfig()
    config.hidden_size, config.intermediate_size, config.mlp_bias = 8, 12, False
    config.hidden_act = config.hidden_activation = "silu"
    return of_name(config)


# What is kept ------------------------------------------------------------------------------------


def test_bytes_kept_by_a_gated_mlp() -> None:
    model = LoRA(r=2, target_modules=["gate_proj", "up_proj", "down_proj"]).apply(tiny_llama())
    mlp = model.get_base_model().model.layers[0].mlp
    wide, narrow = mlp.down_proj.in_features, mlp.down_proj.out_features
    x = torch.randn(2, 6, narrow)

    def forward() -> Tensor:
        return mlp(x.clone().requires_grad_()).sum()

    assert saved_bytes(model, forward) == 4 * 12 * (narrow + 2 * wide + 3 * 2)  # x, g, u; r each
    release(model)
    assert saved_bytes(model, forward) == 4 * 12 * (narrow + 4 * wide + 3 * 2)  # act(g), product


def test_bytes_kept_by_projections_after_a_norm() -> None:
    """Only the norm's input, which it keeps itself."""
    block = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8))
    model = LoRA(r=3, target_modules=["1", "3"]).apply(block)

    def forward() -> Tensor:
        return model(torch.ones(10, 24).requires_grad_()).sum()

    statistics = 2
    kept = saved_bytes(model, forward)
    assert kept == 4 * 10 * (24 + statistics + 40 + 2 * 3)
    release(model)
    assert saved_bytes(model, forward) == kept + 4 * 10 * (24 + 40)


# Where it is left alone --------------------------------------------------------------------------


def _hooked(norm: nn.Module) -> None:
    norm.register_forward_hook(lambda _module, _args, output: 2 * output)


def _hooked_before(norm: nn.Module) -> None:
    norm.register_forward_pre_hook(lambda _module, args: (2 * args[0],))


def _replaced(norm: Any) -> None:
    own = norm.forward
    norm.forward = lambda x: 2 * own(x)


@pytest.mark.parametrize("change", [_hooked, _hooked_before, _replaced])
def test_a_norm_that_somebody_else_changed_is_left_alone(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LoRA(r=3, target_modules=["1"]).apply(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)))
    norm = model.get_base_model()[0]
    x = torch.randn(5, 6, requires_grad=True)
    with counted(monkeypatch) as computed_again:
        model(x).sum().backward()
        assert len(computed_again) == 1
        change(norm)
        model(x).sum().backward()
    assert len(computed_again) == 1


def test_an_unknown_mlp_and_one_with_a_forward_of_its_own_are_left_alone() -> None:
    class Unknown(nn.Module):
        pass

    unknown, mlp = Unknown(), tiny_llama().model.layers[0].mlp
    mlp.forward = own = lambda x: x
    prepare(nn.ModuleList([unknown, mlp]))
    assert type(unknown) is Unknown
    assert mlp.forward is own
    release(mlp)
    assert mlp.forward is own


def test_an_output_that_was_written_to_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = nn.LayerNorm(6), torch.randn(5, 6, requires_grad=True)
    prepare(norm)
    y = norm(x)
    assert origin_of(y) is not None
    y += 1
    assert origin_of(y) is None
    assert origin_of(torch.ones(2)) is None
    with torch.no_grad():
        assert origin_of(norm(x)) is None


class Written(nn.Module):
    """A block that writes to what an activation was computed from, as `relu` allows."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(6, 7), act, nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        y = self.act(h)
        h += 1
        return self.down(y)


def _chain(act: nn.Module) -> nn.Module:
    return nn.Sequential(
        OrderedDict(up=nn.Linear(6, 7), act=act, down=nn.Linear(7, 4)),
    )


@pytest.mark.parametrize(
    "block",
    [
        _chain(nn.SiLU(inplace=True)),
        _chain(nn.ReLU(inplace=True)),
        _chain(nn.RReLU()),
        Written(nn.ReLU()),
        Written(ReLUSquaredActivation()),
        Written(nn.Tanh()),
    ],
)
def test_an_activation_in_place_with_a_draw_or_of_a_changed_input(block: nn.Module) -> None:
    torch.manual_seed(0)
    model = LoRA(r=2, target_modules=["up", "down"]).apply(copy.deepcopy(block).double())
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B["default"].weight.normal_()
    x = torch.randn(5, 6, dtype=torch.float64)

    def gradients() -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.autograd.grad(model(x.clone()).square().sum(), parameters)

    ours = gradients()
    release(model)
    with plain_layers():
        plain = gradients()
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Tanh(), nn.Sigmoid()], ids=str)
def test_an_activation_that_keeps_its_output_is_not_computed_again(act: nn.Module) -> None:
    model = LoRA(r=3, target_modules=["up", "down"]).apply(_chain(act))

    def forward() -> Tensor:
        return model(torch.ones(10, 6).requires_grad_()).sum()

    kept = saved_bytes(model, forward)
    assert kept == 4 * 10 * (6 + 7 + 2 * 3)  # x, the activation's output, r each
    release(model)
    assert saved_bytes(model, forward) == kept


def test_an_encoder_is_no_norm() -> None:
    """transformers has layers, dropout and all, whose class is called `...StableLayerNorm`."""
    config = Wav2Vec2Config(
        hidden_size=8, num_attention_heads=2, intermediate_size=8, do_stable_layer_norm=True
    )
    layer = Wav2Vec2EncoderLayerStableLayerNorm(config)
    prepare(layer)
    assert not layer._forward_hooks
    assert layer.layer_norm._forward_hooks


def test_a_norm_that_is_written_to_before_the_backward_is_noticed() -> None:
    block = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4))
    model = LoRA(r=3, target_modules=["1"]).apply(block)
    loss = model(torch.randn(5, 6, requires_grad=True)).sum()
    with torch.no_grad():
        block[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_origin_is_forgotten_with_its_tensor() -> None:
    before = len(recomputation._noted)
    x = torch.ones(3)
    y = x + 1
    note(y, lambda x: x + 1, (x,))
    assert len(recomputation._noted) == before + 1
    del y
    assert len(recomputation._noted) == before


def test_copies_pickles_and_release() -> None:
    model = trained(tiny_llama, LoRA(r=2))
    expected = gradients(model)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        mlp = same.get_base_model().model.layers[0].mlp
        assert type(mlp) is type(model.get_base_model().model.layers[0].mlp)
        for found, wanted in zip(gradients(same), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    base = model.unload()
    release(base)
    assert all(not m._forward_hooks for m in base.modules())
    assert [type(m) for m in base.modules()] == [type(m) for m in tiny_llama().modules()]


def test_a_pickle_of_a_class_that_is_no_longer_known_is_of_its_own_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    norm = LlamaRMSNorm(4)
    prepare(norm)
    pickled = pickle.dumps(norm)
    assert type(pickle.loads(pickled)) is type(norm)
    monkeypatch.delitem(FORWARDS, "transformers.models.llama.modeling_llama.LlamaRMSNorm")
    again = pickle.loads(pickled)
    assert type(again) is LlamaRMSNorm
    assert torch.equal(again.weight, norm.weight)


def test_preparing_twice_changes_nothing() -> None:
    model = LoRA(r=2).apply(tiny_llama())
    kinds = [(type(m), len(m._forward_hooks)) for m in model.modules()]
    prepare(model)
    assert [(type(m), len(m._forward_hooks)) for m in model.modules()] == kinds


@pytest.mark.parametrize("name", sorted(FORWARDS))
def test_a_replica_computes_with_its_own_parts(name: str) -> None:
    """`nn.DataParallel` copies the attributes of an instance, and then gives it other parts."""
    module, other = built(name), built(name)
    for parameter in other.parameters():
        parameter.data.normal_()
    prepare(module)
    replica = module._replicate_for_data_parallel()
    for part, child in other.named_children():
        setattr(replica, part, child)
    for part, parameter in other.named_parameters(recurse=False):
        setattr(replica, part, parameter.detach())
    x = torch.randn(5, 8)
    assert torch.equal(replica(x), other(x))
    assert not torch.equal(replica(x), module(x))


@pytest.mark.slow
def test_compiled() -> None:
    model = trained(tiny_llama, LoRA(r=2), torch.float32)
    inputs = batch(rows_for(model.get_base_model(), 2))
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs).loss, model(**inputs).loss)
    compiled(**inputs).loss.backward()


def test_the_layer_computes_its_input_again_under_its_own_rule() -> None:
    """A recomputed x is the one of the forward, bit for bit, dropout included."""
    torch.manual_seed(0)
    h = torch.randn(4, 6, requires_grad=True)
    A, B = (torch.randn(*shape, requires_grad=True) for shape in ((2, 6), (5, 2)))
    rule = lowrank.Rule(s=2.0, dropout=0.4, seed=7)
    W = torch.randn(5, 6)

    def grads(origin: Any) -> tuple[Tensor, ...]:
        x = torch.tanh(h)
        y = lowrank.lowrank_linear(lowrank.Operands(x, W, A=A, B=B), rule, origin)
        return torch.autograd.grad(y.square().sum(), (h, A, B))

    again = recomputation.Origin(torch.tanh, (h,))
    assert all(torch.equal(a, b) for a, b in zip(grads(again), grads(None), strict=True))
