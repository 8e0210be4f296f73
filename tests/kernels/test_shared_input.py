"""Projections that see the same input compute as one function, wherever they do see it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    MobileBertConfig,
    MobileBertForSequenceClassification,
)

from models import batch, classification_rows, rows_for, same_bits, tiny_bert, tiny_llama, trained
from rankwright.core.loop import Loop
from rankwright.kernels import shared_input
from rankwright.kernels.blocks import release
from rankwright.kernels.fused_linear import FusedLinear, fuse
from rankwright.kernels.shared_input import shared_in
from rankwright.methods import DoRA, LoRA

Sizes = list[int]


def _the_same(x: Tensor, _: int) -> Tensor:
    return x


class Block(nn.Module):
    """Attention's projections; `see` says what each is called with, `order` when."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(6, 4) for _ in range(3))
        self.see: Callable[[Tensor, int], Tensor] = _the_same
        self.order = (0, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.q_proj, self.k_proj, self.v_proj)
        return torch.cat([parts[i](self.see(x, i)) for i in self.order], dim=-1)


def adapted(targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")) -> Any:
    torch.manual_seed(0)
    model: Any = get_peft_model(Block(), LoraConfig(target_modules=list(targets), r=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    fuse(model)
    return model


def x_of(rows: int = 5) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))


def alone(model: nn.Module) -> nn.Module:
    """The same, every projection by itself."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, FusedLinear):
            module.input_group = None
    return model


# The same function -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [LoRA(r=3), LoRA(r=3, lora_dropout=0.3), DoRA(r=3), DoRA(r=3, norm_grad="full")]
)
@pytest.mark.parametrize(
    ("build", "functions"), [(tiny_llama, [3, 1, 2, 1]), (tiny_bert, [3, 1, 1, 1])]
)
def test_together_is_alone(build: Any, functions: Sizes, method: Any, sizes: Sizes) -> None:
    model = trained(build, method).train()
    inputs = batch(rows_for(model.get_base_model(), 3))

    def gradients(model: Any) -> list[Tensor]:
        torch.manual_seed(2)  # of the dropout
        loss = model(**inputs).loss
        return [
            loss,
            *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]),
        ]

    found = gradients(model)
    blocks = len(sizes) // len(functions)
    assert blocks > 1
    assert sizes[: blocks * len(functions)] == functions * blocks
    for one, other in zip(found, gradients(alone(model)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_as_close_as_alone(dtype: Any, autocast: bool) -> None:
    model = adapted()

    def gradients(model: Any, x: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = model(x)
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), wanted)]

    exact = gradients(copy.deepcopy(model).double(), x_of().double()) if not autocast else None
    model = model.to(dtype)
    found, other = gradients(model, x_of().to(dtype)), gradients(alone(model), x_of().to(dtype))
    for i, (one, right) in enumerate(zip(found, other, strict=True)):
        assert one.dtype == right.dtype
        scale = float(right.abs().max())
        assert float((one - right).abs().max()) <= 0.02 * scale, i
        if exact is not None:
            assert float((one - exact[i]).abs().max()) <= 0.03 * float(exact[i].abs().max()), i


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_gradient_checkpointing(reentrant: bool, sizes: Sizes) -> None:
    model = LoRA(r=3).apply(tiny_llama().double()).train()
    inputs = batch(rows_for(model.get_base_model(), 3))
    parameters = [p for p in model.parameters() if p.requires_grad]
    plain = torch.autograd.grad(model(**inputs).loss, parameters)
    before = list(sizes)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model(**inputs).loss.backward()
    for parameter, expected in zip(parameters, plain, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-14)
    assert sizes[len(before) :].count(3) == 2 * before.count(3)  # once more in the backward


def test_release_lets_each_compute_alone(sizes: Sizes) -> None:
    model = adapted()
    expected = model(x_of())
    copied = copy.deepcopy(model)
    for one in (model, copied):
        release(one)
        torch.testing.assert_close(one(x_of()), expected)
        assert not one.base_model.model._forward_hooks
        assert not one.base_model.model._forward_pre_hooks
    assert sizes == [3, *[1] * 6]


def test_a_second_adapter_adds_no_second_hook(sizes: Sizes) -> None:
    model = adapted()
    hooks = dict(model.base_model.model._forward_hooks)
    model.add_adapter("other", LoraConfig(target_modules=["q_proj", "k_proj", "v_proj"], r=2))
    fuse(model)
    assert dict(model.base_model.model._forward_hooks) == hooks
    model(x_of())
    assert sizes == [3]


def test_a_method_applied_anew_leaves_no_hook_of_the_last() -> None:
    base = tiny_llama()
    for _ in range(2):
        base = LoRA(r=2).apply(base).unload()
    block = LoRA(r=2).apply(base).get_base_model().model.layers[0].self_attn
    assert len(block._forward_hooks) == len(block._forward_pre_hooks) == 1


def test_names_of_one_s_own(sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_input, "SHARED", [*shared_input.SHARED, ("0", "1")])
    model: Any = get_peft_model(
        nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), LoraConfig(target_modules=["0", "1"], r=1)
    )
    fuse(model)
    model(torch.randn(2, 3))  # one after the other: not one input after all
    assert sizes == [2, 1]


def test_only_what_is_adapted_takes_part(sizes: Sizes) -> None:
    model = adapted(("k_proj", "v_proj"))
    torch.testing.assert_close(model(x_of()), alone(model)(x_of()))
    assert sizes == [2, 1, 1]


# Where they do not see the same ------------------------------------------------------------------


def _a_copy(x: Tensor, i: int) -> Tensor:
    return x.clone() if i else x


def _another(x: Tensor, i: int) -> Tensor:
    return x + i


def _written_to(x: Tensor, i: int) -> Tensor:
    return x.add_(1) if i == 2 else x


@pytest.mark.parametrize("see", [_a_copy, _another, _written_to])
def test_different_inputs_are_noticed_and_remembered(see: Any, sizes: Sizes) -> None:
    model = adapted()
    model.base_model.model.see = see
    expected = alone(model)(x_of())
    sizes.clear()
    for _ in range(2):
        torch.testing.assert_close(model(x_of()), expected)
    assert sizes[0] == 3
    assert sizes[-3:] == [1, 1, 1]


def test_another_order_of_calls_is_right_too(sizes: Sizes) -> None:
    model = adapted()
    model.base_model.model.order = (2, 0, 1)
    expected = alone(model)(x_of())
    sizes.clear()
    torch.testing.assert_close(model(x_of()), expected)
    assert sizes == [1, 3]  # v_proj alone, then all: k_proj's output waited


def test_outputs_wait_within_a_call_of_the_block_only(sizes: Sizes) -> None:
    """Called by itself a projection waits for nothing that may change before the next call."""
    model = adapted()
    block, x = model.base_model.model, x_of()
    block.q_proj(x)
    with torch.no_grad():
        block.k_proj.lora_A["default"].weight.mul_(2)
    torch.testing.assert_close(block.k_proj(x), alone(model).base_model.model.k_proj(x))
    with model.disable_adapter():
        torch.testing.assert_close(block.k_proj(x), block.k_proj.base_layer(x))
    assert sizes == [1, 1, 1]


def _fail(x: Tensor, i: int) -> Tensor:
    if i == 1:
        raise RuntimeError("in the middle")
    return x


def test_nothing_is_kept_beyond_the_call(sizes: Sizes) -> None:
    model = adapted()
    block = model.base_model.model
    block.order = (0, 1)  # v_proj's output is computed and not asked for
    model(x_of())
    assert block.q_proj.input_group._waiting is None
    block.see = _fail
    with pytest.raises(RuntimeError, match="in the middle"):
        model(x_of())
    assert block.q_proj.input_group._waiting is None
    block.q_proj(x_of())
    assert sizes == [3, 3, 1]


def test_without_gradients_and_in_inference_mode(sizes: Sizes) -> None:
    model = adapted()
    expected = model(x_of()).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(model(x_of()), expected)
    assert sizes == [3, 3, 3]


def _a_hook(part: nn.Module) -> None:
    part.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1,))


def _a_forward(part: nn.Module) -> None:
    part.forward = lambda x: FusedLinear.forward(part, x + 1)  # type: ignore[assignment,arg-type]


@pytest.mark.parametrize("change", [_a_hook, _a_forward])
def test_a_projection_in_other_hands_computes_alone(change: Any, sizes: Sizes) -> None:
    model = adapted()
    block, x = model.base_model.model, x_of()
    before = model(x)
    change(block.k_proj)
    after = model(x)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    torch.testing.assert_close(after[:, 4:8], alone(adapted())(x + 1)[:, 4:8])
    torch.testing.assert_close(after[:, 8:], before[:, 8:])
    assert sizes[1:3] == [2, 1]


def test_copies_and_pickles_have_groups_of_their_own(sizes: Sizes) -> None:
    model, x = adapted(), x_of()
    model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(2)
        sizes.clear()
        assert not torch.allclose(other(x), model(x))
        torch.testing.assert_close(other(x), alone(other)(x))
        assert sizes == [3, 3, 3, 1, 1, 1]


# Where they are looked for -----------------------------------------------------------------------


def test_attention_over_another_sequence_is_left_alone() -> None:
    config = BartConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8,
        decoder_ffn_dim=8, encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    assert list(shared_in(BartForSequenceClassification(config))) == []
    assert len(list(shared_in(tiny_llama()))) > 0


def mobilebert(**options: Any) -> MobileBertForSequenceClassification:
    """Its value sees the whole hidden state, query and key a bottleneck of it."""
    torch.manual_seed(0)
    config = MobileBertConfig(
        vocab_size=64, embedding_size=16, num_hidden_layers=2, num_attention_heads=2,
        hidden_size=32, intermediate_size=24, max_position_embeddings=32, **options,
    )  # fmt: skip
    return MobileBertForSequenceClassification(config)


def test_projections_of_unlike_width_form_no_group() -> None:
    model = LoRA(r=2).apply(mobilebert(intra_bottleneck_size=16))
    model(**batch(classification_rows(3))).loss.backward()


def test_a_resumed_run_knows_which_blocks_see_different_inputs() -> None:
    """To notice it again would cost a forward together, and a dropout mask."""
    method = LoRA(r=2, lora_dropout=0.2, target_modules=["q_proj", "k_proj", "v_proj"])

    def loop() -> Loop:
        torch.manual_seed(0)
        block = Block()
        block.see = lambda x, i: x * (i + 1)
        model = method.apply(block, seed=0)
        return Loop(model, method, total_steps=4, loss=lambda m, x: m(x).square().mean())

    whole, first = loop(), loop()
    torch.manual_seed(1)
    for _ in range(4):
        whole.train_step(x_of())
    torch.manual_seed(1)
    run = first
    for _ in range(4):  # resumed before every step, so also from a resumed run's checkpoint
        run.train_step(x_of())
        state = copy.deepcopy(run.state_dict())
        assert state["apart"] == ["base_model.model"]
        run = loop()
        run.load_state_dict(state)
    assert same_bits(dict(whole.model.state_dict()), dict(run.model.state_dict()))
