"""When an adapted layer computes as one function, and when PEFT's own forward does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from benchmarks.meters import saved_bytes
from method_table import METHODS, method_named
from models import batch, rows_for, tiny_bert, tiny_llama, trained
from rankwright.core.loop import Loop
from rankwright.kernels.fused_linear import FusedLinear, fuse, plain_layers
from rankwright.layers import use_factored_dora
from rankwright.methods import DoRA, LoRA
from rankwright.peft_layers.layers import adapted_layers

Sizes = list[int]

WITHOUT_LAYERS = ("full", "head_only")


def one_layer(layer: nn.Module, **options: Any) -> Any:
    """(model, adapted layer) with factors as after some training."""
    torch.manual_seed(0)
    config = LoraConfig(
        target_modules=["0"], r=3, fan_in_fan_out=isinstance(layer, Conv1D), **options
    )
    model = get_peft_model(nn.Sequential(layer), config)
    if options.get("use_dora"):
        use_factored_dora(model)
    fuse(model)
    module = model.base_model.model[0]
    with torch.no_grad():
        module.lora_B["default"].weight.normal_()
    return model, module


# By default ------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_through_it(
    name: str, build: Any, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every adapted linear layer in every pass with its adapter, whatever a method adds to it."""
    stepped_back: list[Any] = []
    peft_forward = Linear.forward

    def counted(layer: Linear, *args: Any, **kwargs: Any) -> Tensor:
        if not layer.disable_adapters:
            stepped_back.append(layer)
        return peft_forward(layer, *args, **kwargs)

    monkeypatch.setattr(Linear, "forward", counted)
    method = method_named(name)
    base = build()
    model = method.apply(base)
    inputs = batch(rows_for(base, 4))
    run = Loop(
        model, method, total_steps=8, steps_per_epoch=4, held_out=lambda _: batch(rows_for(base, 4))
    )
    linear = [layer for layer in run.layers.values() if isinstance(layer, Linear)]
    assert linear or name in WITHOUT_LAYERS
    for _ in range(8):
        sizes.clear()
        run.train_step(inputs)
        assert sum(sizes) >= len(linear)
    assert stepped_back == []


@pytest.mark.parametrize("method", [LoRA(r=4), DoRA(r=4), DoRA(r=4, norm_grad="full")])
def test_peft_s_forward_is_the_reference(method: Any, sizes: Sizes) -> None:
    base = tiny_llama().double()
    model = method.apply(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.normal_(std=0.1)
    inputs = batch(rows_for(base, 3))
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients() -> list[Tensor]:
        loss = model(**inputs).loss
        return [loss, *torch.autograd.grad(loss, parameters)]

    ours = gradients()
    assert sum(sizes) == 21
    with plain_layers():
        plain = gradients()
    assert sum(sizes) == 21
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


# What it keeps -----------------------------------------------------------------------------------


def bytes_kept(module: nn.Module, x: Tensor) -> int:
    return saved_bytes(module, lambda: module(x.clone().requires_grad_()).sum())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_bytes_kept_for_the_backward(bias: bool, dropout: float) -> None:
    tokens, d_in, d_out, r = 32, 24, 40, 3
    x = torch.randn(2, tokens // 2, d_in)
    layer = nn.Linear(d_in, d_out, bias=bias)
    _, module = one_layer(copy.deepcopy(layer), lora_dropout=dropout)
    factors = 4 * tokens * (d_in + r)
    assert bytes_kept(module, x) == factors
    module.lora_A["default"].weight.requires_grad_(False)
    assert bytes_kept(module, x) == 4 * tokens * r
    module.lora_B["default"].weight.requires_grad_(False)
    assert bytes_kept(module, x) == 0
    _, module = one_layer(copy.deepcopy(layer), lora_dropout=dropout, use_dora=True)
    norms = 4 * d_out  # n
    assert bytes_kept(module, x) == factors + 4 * tokens * d_out + norms  # x, A x, and the output
    module.lora_magnitude_vector["default"].weight.requires_grad_(False)
    assert bytes_kept(module, x) == factors + norms


def test_half_precision_keeps_no_wide_copy() -> None:
    _, module = one_layer(nn.Linear(24, 40).bfloat16())
    x = torch.randn(32, 24, dtype=torch.bfloat16)
    assert module.lora_A["default"].weight.dtype == torch.float32
    assert bytes_kept(module, x) == 32 * (2 * 24 + 4 * 3)


def test_projections_that_share_an_input_keep_it_once() -> None:
    model = LoRA(r=2, target_modules=["q_proj", "k_proj", "v_proj"]).apply(tiny_llama())
    layers = list(adapted_layers(model).values())[:3]
    x = torch.randn(2, 6, 32)

    def forward() -> Tensor:
        shared = x.clone().requires_grad_()
        return torch.stack([layer(shared).sum() for layer in layers]).sum()

    assert saved_bytes(model, forward) == 4 * 12 * (32 + 3 * 2)


# Where PEFT's forward takes over -----------------------------------------------------------------


def _another_adapter(model: Any, module: Any) -> None:
    model.add_adapter("second", LoraConfig(target_modules=["0"], r=2))
    model.base_model.set_adapter(["default", "second"])


def _bias_in_training(model: Any, module: Any) -> None:
    module.base_layer.bias.requires_grad_(True)


def _weight_in_training(model: Any, module: Any) -> None:
    module.base_layer.weight.requires_grad_(True)


def _hook_on_a_factor(model: Any, module: Any) -> None:
    module.lora_A["default"].register_forward_pre_hook(lambda *_: None)


def _hook_on_the_base(model: Any, module: Any) -> None:
    module.base_layer.register_forward_hook(lambda *_: None)


def _forward_replaced(model: Any, module: Any) -> None:
    module.base_layer.forward = module.base_layer.forward


def _merged(model: Any, module: Any) -> None:
    model.merge_adapter()


def _other_dropout(model: Any, module: Any) -> None:
    module.lora_dropout["default"] = nn.AlphaDropout(0.0)


def _own_factor(model: Any, module: Any) -> None:
    class Own(nn.Linear):
        pass

    own = Own(7, 3, bias=False)
    own.weight = module.lora_A["default"].weight
    module.lora_A["default"] = own


@pytest.mark.parametrize(
    "change",
    [
        _another_adapter,
        _bias_in_training,
        _weight_in_training,
        _hook_on_a_factor,
        _hook_on_the_base,
        _forward_replaced,
        _merged,
        _other_dropout,
        _own_factor,
    ],
)
def test_stepping_back(change: Callable[[Any, Any], None], sizes: Sizes) -> None:
    model, module = one_layer(nn.Linear(7, 5))
    x = torch.randn(3, 7)
    expected = model(x)
    assert sum(sizes) == 1
    change(model, module)
    found = model(x)
    assert sum(sizes) == 1
    torch.testing.assert_close(found, expected)


def test_lora_bias_and_half_precision_inputs_step_back(sizes: Sizes) -> None:
    model, _ = one_layer(nn.Linear(7, 5), lora_bias=True)
    model(torch.randn(3, 7))
    model, _ = one_layer(nn.Linear(7, 5))
    with pytest.raises(RuntimeError):  # PyTorch's own words about two dtypes
        model(torch.randn(3, 7, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        model.double()(torch.randn(3, 7, dtype=torch.float64))  # autocast does not touch float64
    assert sizes == []


def test_disabled_is_the_base(sizes: Sizes) -> None:
    model, module = one_layer(nn.Linear(7, 5))
    x = torch.randn(3, 7)
    with model.disable_adapter():
        assert torch.equal(model(x), module.base_layer(x))
    assert sizes == []


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("layer", [lambda: nn.Linear(7, 5), lambda: Conv1D(5, 7)])
def test_conv1d_too(layer: Any, dora: bool, sizes: Sizes) -> None:
    model, _ = one_layer(layer(), use_dora=dora)
    x = torch.randn(2, 3, 7)
    found = model(x)
    with plain_layers():
        torch.testing.assert_close(model(x), found)
    assert sum(sizes) == 1


def test_a_silent_magnitude_steps_back(sizes: Sizes) -> None:
    """Its output says nothing about its gradient."""
    model, module = one_layer(nn.Linear(7, 5), use_dora=True)
    m = module.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        m[2] = 0.0
    model(torch.randn(3, 7)).sum().backward()
    assert sizes == []
    assert float(m.grad[2].abs()) > 0


def test_compiled() -> None:
    for dora in (False, True):
        model, _ = one_layer(nn.Linear(7, 5), use_dora=dora)
        x = torch.randn(3, 7)
        compiled = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x))
        compiled(x).sum().backward()


def test_an_output_that_a_magnitude_needs_is_written_to() -> None:
    block = nn.Sequential(nn.Linear(7, 5), nn.ReLU(inplace=True))
    model = DoRA(r=2, target_modules=["0"]).apply(block)
    loss = model(torch.randn(3, 7)).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace") as raised:
        loss.backward()
    assert "inplace=True" in raised.value.__notes__[0]
    with plain_layers():
        model(torch.randn(3, 7)).sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch.func.jvp
@pytest.mark.parametrize("method", [LoRA(r=2), DoRA(r=2)])
@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_functional_transforms_and_forward_mode(build: Any, method: Any) -> None:
    model = trained(build, method)
    model.set_attn_implementation("eager")
    inputs = batch(rows_for(model.get_base_model(), 2))
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    values = {name: p.detach() for name, p in trainable.items()}
    expected = torch.autograd.grad(model(**inputs).loss, list(trainable.values()))

    def loss(parameters: dict[str, Tensor]) -> Any:
        return torch.func.functional_call(model, parameters, kwargs=inputs).loss

    found = torch.func.grad(loss)(values)
    close = {"rtol": 1e-4, "atol": 1e-7}  # Llama's norms compute in float32
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other, **close)
    _, along = torch.func.jvp(loss, (values,), (values,))
    sloped = sum((g * p).sum() for g, p in zip(expected, values.values(), strict=True))
    torch.testing.assert_close(along.double(), sloped, **close)


def test_copies_and_pickles_compute_the_same() -> None:
    model, module = one_layer(nn.Linear(7, 5))
    x = torch.randn(3, 7)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))
    assert type(module) is FusedLinear
    assert type(model.unload()[0]) is nn.Linear


def test_dropout_is_drawn_anew_in_training_only(sizes: Sizes) -> None:
    model, _ = one_layer(nn.Linear(7, 5), lora_dropout=0.5)
    x = torch.randn(3, 7)
    assert not torch.equal(model(x), model(x))
    torch.manual_seed(3)
    first = model(x)
    torch.manual_seed(3)
    assert torch.equal(model(x), first)
    model.eval()
    assert torch.equal(model(x), model(x))
    assert sum(sizes) == 6
