"""Every method over a base that bitsandbytes quantised, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from method_table import METHODS, STEPS, method_named
from models import VOCABULARY, batch, causal_rows
from rankwright.core.loop import Loop
from rankwright.errors import MethodError

WITHOUT_FULL = [name for name in METHODS if name != "full"]
OF_DORA = ("bidora", "dora")
"""PEFT 0.21 makes an int8 layer lose its scales on the CPU when it lays DoRA over it."""


def quantised(layer: nn.Linear, bits: int) -> nn.Module:
    """The layer with its weight in NF4 blocks, or in int8 rows."""
    size = layer.in_features, layer.out_features
    weight = layer.weight.detach().clone()
    if bits == 4:
        found = bitsandbytes.nn.Linear4bit(*size, bias=False, quant_type="nf4")
        found.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        found.support_avx512bf16_for_cpu = False  # else a pass in bfloat16, where the CPU has it
    else:
        found = bitsandbytes.nn.Linear8bitLt(*size, bias=False, has_fp16_weights=False)
        found.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False)
    return found.to("cpu")


def base(bits: int) -> LlamaForCausalLM:
    """The same at every call; a copy of int8 weights would lose their scales."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
    ).eval()
    for name, module in [*model.model.named_modules()]:
        if isinstance(module, nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(model.model.get_submodule(parent), child, quantised(module, bits))
    setattr(model, f"is_loaded_in_{bits}bit", True)
    logits(model)  # int8 weights are arranged at the first pass
    return model


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    inputs = batch(causal_rows(3, seed=7))
    found: Tensor = model.eval()(input_ids=inputs["input_ids"]).logits
    return found


def trained(name: str, bits: int) -> Any:
    method = method_named(name)
    model = method.apply(base(bits))
    assert torch.equal(logits(model), logits(base(bits)))
    rows = batch(causal_rows(4))
    run = Loop(model.train(), method, total_steps=STEPS, lr=1e-2, held_out=lambda _: rows)
    for _ in range(STEPS):
        run.train_step(rows)
    run.finish()
    return model


@pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast")
@pytest.mark.parametrize(
    ("name", "bits"),
    [(name, bits) for name in WITHOUT_FULL for bits in (4, 8) if bits == 4 or name not in OF_DORA],
)
def test_over_a_quantised_base(name: str, bits: int, tmp_path: Path) -> None:
    expected = logits(base(bits))
    model = trained(name, bits)
    found = logits(model)
    assert not torch.equal(found, expected)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(bits), tmp_path)
    # int8 layers round their inputs to 1/127 of the largest: a last bit can become such a step
    torch.testing.assert_close(logits(loaded), found, rtol=0, atol=1e-5 if bits == 4 else 1e-3)


def four_bit_layers(model: nn.Module) -> list[bitsandbytes.nn.Linear4bit]:
    return [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]


def test_four_bit_layers_do_not_rearrange_weights_that_are_to_be_trained() -> None:
    """bitsandbytes does, where the CPU has AVX512-BF16, at the first pass in evaluation mode."""
    model = base(4)
    for layer in four_bit_layers(model):
        layer.support_avx512bf16_for_cpu = True
    adapted = method_named("lora").apply(model)
    assert len(four_bit_layers(adapted)) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in four_bit_layers(adapted))


def test_four_bit_weights_that_were_rearranged_are_refused() -> None:
    model = base(4)
    four_bit_layers(model)[0].weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(MethodError, match=r"self_attn\.q_proj: bitsandbytes has rearranged"):
        method_named("dora").apply(model)


def test_a_quantised_weight_is_not_trained() -> None:
    with pytest.raises(MethodError, match=r"full trains model\.layers\.0.*, whose weight is quant"):
        method_named("full").apply(base(4))
