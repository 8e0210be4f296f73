"""The registry of pairs: which factors, with which scaling, in every layout of PEFT's."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from models import batch, causal_rows, tiny_bert, tiny_llama
from rankwright.errors import MethodError
from rankwright.methods import DoRA, LoRA, PiSSA, XGBLoRA
from rankwright.optimizers import named_pairs


class Images(nn.Module):
    """A convolution and a linear layer on it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 5, 3)
        self.out = nn.Linear(5, 1)

    def forward(self, x):
        return self.out(self.conv(x).tanh().mean((2, 3)))


def tiny_gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    )


def loss_of(model):
    if isinstance(model.get_base_model(), Images):
        return model(torch.randn(4, 2, 6, 6, dtype=torch.float64)).square().sum()
    return model(**batch(causal_rows(4))).loss


@pytest.mark.parametrize(
    ("base", "targets", "dora"),
    [
        (tiny_llama, "q_proj|down_proj", False),
        (tiny_llama, "q_proj|down_proj", True),
        (tiny_llama, "embed_tokens", False),
        (tiny_gpt2, "c_attn|c_proj", False),
        (Images, "conv|out", False),
    ],
)
def test_both_gradients_come_from_one_weight_gradient(base, targets, dora):
    """dL/dA A^T = s B^T G A^T = B^T dL/dB, whatever the layout; and s is the layer's."""
    torch.manual_seed(1)
    config = LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=rf".*({targets})",
        use_dora=dora,
        fan_in_fan_out=base is tiny_gpt2,
    )
    model = get_peft_model(base().double(), config)
    pairs = named_pairs(model)
    for factor in (factor for pair in pairs.values() for factor in pair):
        nn.init.normal_(
            factor
        )  # PEFT starts the B of a linear layer at zero, the A of an embedding
    loss_of(model).backward()
    assert pairs
    for pair in pairs.values():
        A, B = pair.A.flatten(1), pair.B.flatten(1)
        dA, dB = pair.A.grad.flatten(1), pair.B.grad.flatten(1)
        assert pair.rank == len(A) == B.shape[1] == 3
        assert pair.scaling == 2.0
        assert (dA @ A.T).abs().max() > 0
        torch.testing.assert_close(dA @ A.T, B.T @ dB, rtol=1e-9, atol=1e-12)


def test_pairs_are_named_by_module_with_their_own_scaling():
    method = LoRA(r=2, lora_alpha=4, rank_pattern={"query": 4}, alpha_pattern={"value": 10.0})
    model = method.apply(tiny_bert())
    pairs = named_pairs(model)
    modules = dict(model.named_modules())
    assert len(pairs) == 2 * 6 + 1  # and the pooler
    for name, pair in pairs.items():
        assert pair.name == name
        assert pair.A is modules[name].lora_A["default"].weight
        assert pair.B is modules[name].lora_B["default"].weight
        assert pair.scaling == {"query": 1.0, "value": 5.0}.get(name.rpartition(".")[2], 2.0)


@pytest.mark.parametrize("method", [XGBLoRA(r=2), PiSSA(r=2)])
def test_of_a_stack_the_live_part(method):
    model = method.apply(tiny_llama())
    parameters = {id(p): n for n, p in model.named_parameters()}
    for pair in named_pairs(model).values():
        assert [parameters[id(p)].rpartition(".")[2] for p in pair] == ["live", "live"]


def test_magnitudes_are_no_pairs():
    model = DoRA(r=2).apply(tiny_bert())
    factors = {id(p) for pair in named_pairs(model).values() for p in pair}
    others = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in factors]
    assert others
    assert all("lora_magnitude" in name or "modules_to_save" in name for name in others)


def test_an_adapter_of_another_name():
    model = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"]), "mine")
    assert len(named_pairs(model, "mine")) == 3
    with pytest.raises(
        MethodError, match="no layer has an adapter 'default'; expected one of mine"
    ):
        named_pairs(model)


def test_a_layer_without_a_pair_is_refused():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    model = get_peft_model(Attention(), LoraConfig(target_modules=["attention"]))
    with pytest.raises(MethodError, match="attention has no pair of factors"):
        named_pairs(model)


def test_another_variant_is_refused():
    config = LoraConfig(
        target_modules=["q_proj"], alora_invocation_tokens=[1], task_type="CAUSAL_LM"
    )
    model = get_peft_model(tiny_llama(), config)
    with pytest.raises(MethodError, match="whose update is not s B A"):
        named_pairs(model)


def test_a_shared_factor_is_refused():
    model = LoRA(r=2, target_modules=["query", "value"]).apply(tiny_bert())
    first, second, *_ = named_pairs(model).values()
    module = model.get_submodule(second.name)
    module.lora_A["default"].weight = first.A
    with pytest.raises(MethodError, match="share a factor"):
        named_pairs(model)
