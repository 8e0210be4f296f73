"""Saved rank and alpha patterns reproduce the trained ranks in any order of keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from method_table import method_named
from models import tiny_bert, tiny_llama, tokens
from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.methods import DoRA, LoRA, PiSSA
from rankwright.peft_layers.layers import adapted_layers
from trainers import base_model, build_trainer, logits


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=3, n_head=4)
    )


def tiny_t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    )


def deep_bert() -> Any:
    config = tiny_bert().config
    config.num_hidden_layers = 12
    torch.manual_seed(0)
    return BertForSequenceClassification(config)


class Nested(nn.Module):
    """Names that are ends of one another: `a.q` and `b.a.q`, `a.q` and `a.q2`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ModuleDict({"q": nn.Linear(8, 8), "q2": nn.Linear(8, 8)})
        self.b = nn.ModuleDict({"a": nn.ModuleDict({"q": nn.Linear(8, 8)})})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b["a"]["q"](torch.tanh(self.a["q2"](torch.tanh(self.a["q"](x)))))


def nested() -> Nested:
    torch.manual_seed(0)
    return Nested()


CASES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    # the narrow key first, and sorted last; two that overlap in part; one that is sorted first
    (tiny_llama, {"model.layers.0.self_attn.q_proj": 2, ".*q_proj": 3, "[kv]_proj": 5}, {}),
    (deep_bert, {"layer.1.attention.self.query": 2, "query": 3, "layer.1.*": 5}, {}),
    (
        tiny_gpt2,
        {"h.1.attn.c_attn": 2, "(c_attn|c_fc)": 3, "h.1.*": 5},
        {"target_modules": ["c_attn", "c_fc", "c_proj"]},
    ),
    (tiny_t5, {"decoder.block.1.layer.0.SelfAttention.q": 2, "q": 3, "decoder.*": 5}, {}),
    (nested, {"b.a.q": 2, "a.q": 3, "a.*": 5}, {"target_modules": ["q", "q2"]}),
]


def probe(model: nn.Module) -> Any:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(base, Nested):
        draw = torch.Generator().manual_seed(0)
        return model(torch.randn(3, 8, generator=draw, dtype=torch.float64))
    labels = (
        {"decoder_input_ids": tokens(2)} if isinstance(base, T5ForConditionalGeneration) else {}
    )
    return model(input_ids=tokens(2), **labels).logits


@pytest.mark.parametrize("cls", [LoRA, DoRA, PiSSA])
@pytest.mark.parametrize(
    ("build", "keys", "options"), CASES, ids=lambda v: getattr(v, "__name__", "")
)
def test_what_is_loaded_is_what_was_trained(
    build: Any, keys: dict[str, int], options: dict[str, Any], cls: type[Method], tmp_path: Path
) -> None:
    alphas = {key: 10.0 * rank for key, rank in keys.items()}
    method = cls(r=4, lora_alpha=8.0, rank_pattern=keys, alpha_pattern=alphas, **options)
    model = method.apply(build().double()).eval()
    _draw(model)
    model.save_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    loaded = PeftModel.from_pretrained(build().double(), tmp_path).eval()

    trained, plain = adapted_layers(model), adapted_layers(loaded)
    assert trained.keys() == plain.keys()
    for name, layer in trained.items():
        other = plain[name]
        assert other.scaling["default"] == pytest.approx(layer.scaling["default"])
        assert other.lora_B["default"].weight.shape == layer.lora_B["default"].weight.shape
    assert {2, 3, 5} <= {int(layer.r["default"]) for layer in trained.values()} or cls is PiSSA
    for pattern in (config["rank_pattern"], config["alpha_pattern"]):
        assert all(key[0] == "^" and key[-1] == "$" for key in pattern)
        assert list(pattern) == sorted(pattern)
    torch.testing.assert_close(probe(loaded), probe(model), rtol=0, atol=1e-9)


@torch.no_grad()
def _draw(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("name", ["cola", "xgblora", "rac_lora", "sora", "olora", "bidora"])
def test_after_training(name: str, kind: str, tmp_path: Path) -> None:
    """Chains and pruning write ranks of their own in the end."""
    end = "(query|q_proj)"
    patterns = {f".*0.*{end}": 1, end: 3}
    alphas = {f".*1.*{end}": 20.0, end: 5.0}
    method = method_named(name, r=2, rank_pattern=patterns, alpha_pattern=alphas)
    trainer = build_trainer(method, kind, tmp_path, double=True, dropout=False)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert trainer.method.rank_pattern == patterns  # a resumed run is compared by what was written
    loaded = PeftModel.from_pretrained(base_model(kind, double=True), tmp_path / "final")
    found, expected = logits(loaded, kind), logits(trainer.model, kind)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # loaded factors are in float32


def test_only_what_differs_has_an_entry() -> None:
    method = LoRA(r=2, lora_alpha=8.0, rank_pattern={"0.self_attn.q_proj": 4, "q_proj": 2})
    config = method.apply(tiny_llama()).peft_config["default"]
    assert config.rank_pattern == {r"^model\.layers\.0\.self_attn\.q_proj$": 4}
    assert config.alpha_pattern == {}
    assert (config.r, config.lora_alpha) == (2, 8.0)


@pytest.mark.parametrize("kind", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["q_proj", "layers.0.self_attn.q_proj"], "'layers.0.self_attn.q_proj' never takes effect"),
        (
            ["layers.[01].*", "layers.2.*", ".*q_proj"],
            r"'\.\*q_proj' never takes effect.*'layers\.\[01\]\.\*' and 'layers\.2\.\*' before it",
        ),
        (["q_proj", "q_projs"], "'q_projs' matches no adapted module.*did you mean q_proj"),
    ],
)
def test_a_key_that_never_takes_effect(kind: str, keys: list[str], message: str) -> None:
    method = LoRA(**{kind: dict.fromkeys(keys, 2)})
    base = tiny_llama()
    with pytest.raises(MethodError, match=f"{kind} key {message}"):
        method.apply(base)
    assert not any("lora" in name for name, _ in base.named_parameters())


@pytest.mark.parametrize("kind", ["rank_pattern", "alpha_pattern"])
def test_a_key_that_is_no_regular_expression(kind: str) -> None:
    with pytest.raises(
        MethodError, match=rf"{kind} key '\(q' is not a regular expression \(missing"
    ):
        LoRA(**{kind: {"(q": 2}})
