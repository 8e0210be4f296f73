"""What holds of OLoRA and PiSSA here and does not of PEFT's own: each test shows both."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from models import VOCABULARY, tiny_llama, tokens
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method_registry import get_method
from rankwright.methods import OLoRA, PiSSA

METHODS = [OLoRA, PiSSA]
FIELDS: dict[str, Any] = {"r": 4, "lora_alpha": 8.0}
STEPS = 3


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=tokens(3, seed=7)).logits
    return result


def off(actual: Tensor, expected: Tensor) -> float:
    """Relative Frobenius error."""
    return float((actual - expected).double().norm() / expected.double().norm())


def causal_loss(model: nn.Module, step: int) -> Tensor:
    ids = tokens(4, seed=step)
    loss: Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def pefts_own(method: type[Any], base: nn.Module, **changes: Any) -> PeftModel:
    options = {"target_modules": "all-linear", **FIELDS, **changes}
    return get_peft_model(base, LoraConfig(init_lora_weights=method.name, **options))


def ours_trained(method: type[Any], base: LlamaForCausalLM) -> PeftModel:
    chosen = method(**FIELDS)
    run = Loop(
        *(chosen.apply(base), chosen),
        total_steps=STEPS,
        lr=1e-2,
        schedule=constant_schedule,
        loss=causal_loss,
    )
    for step in range(STEPS):
        run.train_step(step)
    return run.model


def pefts_trained(method: type[Any], base: LlamaForCausalLM) -> PeftModel:
    model = pefts_own(method, base)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for step in range(STEPS):
        causal_loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def without_adapter(model: PeftModel) -> Tensor:
    with model.disable_adapter():
        return logits(model)


@pytest.mark.parametrize("method", METHODS)
def test_disabled_and_unloaded_it_is_the_base(method: type[Any]) -> None:
    base = logits(tiny_llama())
    ours, theirs = ours_trained(method, tiny_llama()), pefts_trained(method, tiny_llama())
    assert torch.equal(without_adapter(ours), base)
    assert torch.equal(logits(ours.unload()), base)
    assert off(without_adapter(theirs), base) > 0.1
    assert off(logits(theirs.unload()), base) > 0.1


def dpo_loss(model: PeftModel, beta: float = 0.1) -> Tensor:
    """The loss of arXiv 2305.18290 whose reference is the model with its adapter disabled."""
    chosen, rejected = tokens(4, seed=1), tokens(4, seed=2)

    def log_probability(ids: Tensor) -> Tensor:
        scores = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        return scores.gather(-1, ids[:, 1:, None]).sum((1, 2))

    margin = log_probability(chosen) - log_probability(rejected)
    with torch.no_grad(), model.disable_adapter():
        reference = log_probability(chosen) - log_probability(rejected)
    return -F.logsigmoid(beta * (margin - reference)).mean()


@pytest.mark.parametrize("method", METHODS)
def test_the_reference_of_dpo_is_the_pretrained_model(method: type[Any]) -> None:
    """Policy and reference are equal at the start, where every margin is 0 and the loss ln 2."""
    start = torch.tensor(2.0).log()
    large = {"initializer_range": 0.2}  # weights of a size at which a random model has opinions
    ours = dpo_loss(method(**FIELDS).apply(tiny_llama(**large)).eval())
    theirs = dpo_loss(pefts_own(method, tiny_llama(**large)).eval())
    torch.testing.assert_close(ours.detach(), start, rtol=0, atol=1e-5)
    assert abs(float(theirs.detach() - start)) > 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_a_reader_of_plain_lora_gets_the_model(method: type[Any], tmp_path: Path) -> None:
    """W + s B A on the pretrained base: what a server computes that reads A and B only."""
    ours, theirs = ours_trained(method, tiny_llama()), pefts_trained(method, tiny_llama())
    for name, model, bound in (("ours", ours, (0.0, 1e-6)), ("theirs", theirs, (0.1, 1e3))):
        model.save_pretrained(tmp_path / name)
        file = tmp_path / name / "adapter_config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "init_lora_weights": True}))
        plain = PeftModel.from_pretrained(tiny_llama(), tmp_path / name)
        assert bound[0] <= off(logits(plain), logits(model)) < bound[1]


@pytest.mark.parametrize("method", METHODS)
def test_two_adapters_share_one_base(method: type[Any], tmp_path: Path) -> None:
    ours, theirs = ours_trained(method, tiny_llama()), pefts_trained(method, tiny_llama())
    for name, model in (("ours", ours), ("theirs", theirs)):
        model.save_pretrained(tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of its own
            shared = PeftModel.from_pretrained(tiny_llama(), tmp_path / name, adapter_name="a")
            shared.load_adapter(tmp_path / name, adapter_name="b")
        shared.set_adapter("a")
        error = off(logits(shared), logits(model))
        assert error < 1e-6 if name == "ours" else error > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_the_start_on_a_bfloat16_base(method: type[Any]) -> None:
    base = logits(tiny_llama().bfloat16())
    assert torch.equal(logits(method(**FIELDS).apply(tiny_llama().bfloat16())), base)
    assert off(logits(pefts_own(method, tiny_llama().bfloat16())), base) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_start_on_a_float64_base(method: type[Any]) -> None:
    base = logits(tiny_llama().double())
    assert off(logits(method(**FIELDS).apply(tiny_llama().double())), base) < 1e-14
    with pytest.raises(TypeError):
        pefts_own(method, tiny_llama().double())


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    )


def test_conv1d_is_transposed_first() -> None:
    """GPT-2 stores (in, out). PEFT's QR does not look: c_attn fails, square c_proj runs wrong."""
    base = logits(tiny_gpt2())
    ours = OLoRA(target_modules=["c_attn", "attn.c_proj"], **FIELDS).apply(tiny_gpt2())
    assert off(logits(ours), base) < 3e-6
    square = pefts_own(OLoRA, tiny_gpt2(), target_modules=["attn.c_proj"], fan_in_fan_out=True)
    assert off(logits(square), base) > 1e-3
    wide = pefts_own(OLoRA, tiny_gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        logits(wide)


def test_the_trainings_agree() -> None:
    """The same function: only where the subtracted product is kept differs."""
    for method in METHODS:
        ours, theirs = ours_trained(method, tiny_llama()), pefts_trained(method, tiny_llama())
        assert off(logits(ours), logits(theirs)) < 1e-3, method.name


def test_the_defaults_are_those_of_the_page() -> None:
    method = OLoRA()
    assert get_method("olora") is OLoRA
    assert (method.r, method.lora_alpha, method.target_modules) == (8, 8.0, "all-linear")
    assert method.slots().filled() == ["init"]
