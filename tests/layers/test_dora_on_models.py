"""Whole transformers models: the fresh adapter is the base, the saved one is PEFT's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from rankwright.layers import use_factored_dora

VOCAB = 60


def tiny_llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def tiny_bert() -> Any:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


MODELS = {"llama": tiny_llama, "bert": tiny_bert}


def build(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """The same random base model at every call."""
    torch.manual_seed(0)
    return MODELS[kind]().to(dtype).eval()


def adapted(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    config = LoraConfig(
        target_modules="all-linear",
        task_type="SEQ_CLS" if kind == "bert" else "CAUSAL_LM",
        r=4,
        lora_alpha=8,
        use_dora=True,
    )
    model = get_peft_model(build(kind, dtype), config)
    use_factored_dora(model)
    return model.eval()


def ids() -> Tensor:
    return torch.randint(VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=ids()).logits
    return found


@torch.no_grad()
def move(model: Any) -> None:
    """Values as after some training."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
        if "lora_magnitude_vector" in name:
            parameter.mul_(torch.rand_like(parameter) + 0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_fresh_adapter_gives_the_base_logits_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    assert torch.equal(logits(adapted(kind, dtype)), logits(build(kind, dtype)))


@pytest.mark.parametrize("kind", MODELS)
def test_saved_adapter_is_peft_s(kind: str, tmp_path: Path) -> None:
    model = adapted(kind)
    move(model)
    model.save_pretrained(tmp_path)
    vanilla = PeftModel.from_pretrained(build(kind), tmp_path).eval()
    torch.testing.assert_close(logits(vanilla), logits(model), rtol=0, atol=3e-6)

    again = PeftModel.from_pretrained(build(kind), tmp_path).eval()
    use_factored_dora(again, init_magnitude=False)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", MODELS)
def test_merged_and_unloaded_model(kind: str) -> None:
    model = adapted(kind, torch.float64)
    move(model)
    expected = logits(model)
    merged = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_disabled_adapter_is_the_base_while_training(kind: str) -> None:
    model = adapted(kind).train()
    move(model)
    model(input_ids=ids()).logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with model.disable_adapter():
        assert torch.equal(logits(model.eval()), logits(build(kind)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    def gradients(checkpoint: bool) -> list[Tensor]:
        model = adapted("llama").train()
        torch.manual_seed(1)
        move(model)
        if checkpoint:
            model.enable_input_require_grads()
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model(input_ids=ids(), labels=ids()).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, checkpointed = gradients(False), gradients(True)
    assert len(plain) == len(checkpointed) > 0
    assert all(map(torch.equal, plain, checkpointed))


def test_autocast_keeps_the_norm_in_float32() -> None:
    model = adapted("llama")
    move(model)
    exact = logits(model)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    n = layer.lora_variant["default"].row_norm(layer, "default")
    with torch.autocast("cpu", torch.bfloat16):
        layer.lora_variant["default"].forget()
        assert torch.equal(layer.lora_variant["default"].row_norm(layer, "default"), n)
        assert float((logits(model) - exact).abs().max()) < 0.05 * float(exact.abs().max())
