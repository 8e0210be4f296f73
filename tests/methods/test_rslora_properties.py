"""rsLoRA (arXiv 2312.03732), a field of every method: s = lora_alpha / sqrt(r), layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from chain_toy import Tanh
from models import batch, classification_rows, tiny_bert
from rankwright.core.loop import Loop
from rankwright.methods import DoRA, LoRA, LoRAFA, LoRAPlus, LoRAPro, OLoRA, PiSSA
from rankwright.optimizers import named_pairs
from rankwright.peft_layers.layers import adapted_layers

PATTERNS: dict[str, Any] = {"rank_pattern": {"query": 16}, "alpha_pattern": {"value": 12.0}}
METHODS = (LoRA, DoRA, LoRAPlus, LoRAFA, LoRAPro, OLoRA, PiSSA)


def expected_scaling(name: str, *, rslora: bool) -> float:
    """Of a layer, by its own r and alpha."""
    r = 16 if "query" in name else 4
    alpha = 12.0 if "value" in name else 8.0
    return alpha / r**0.5 if rslora else alpha / r


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    inputs = batch(classification_rows(3, seed=7))
    inputs.pop("labels")
    result: Tensor = model.eval()(**inputs).logits
    return result


def test_the_published_example() -> None:
    for rslora, s in ((True, 4.0), (False, 1.0)):
        model = LoRA(r=16, lora_alpha=16, use_rslora=rslora).apply(tiny_bert())
        assert {layer.scaling["default"] for layer in adapted_layers(model).values()} == {s}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_scaling_is_the_layers_own(method: Any, rslora: bool) -> None:
    model = method(r=4, lora_alpha=8, use_rslora=rslora, **PATTERNS).apply(tiny_bert())
    for name, pair in named_pairs(model).items():
        assert pair.scaling == expected_scaling(name, rslora=rslora), name


@pytest.mark.parametrize("method", METHODS)
def test_plain_peft_loads_patterns_and_scaling(method: Any, tmp_path: Path) -> None:
    """PiSSA with both is what PEFT's own conversion cannot do."""
    method = method(r=4, lora_alpha=8, use_rslora=True, **PATTERNS)
    run = Loop(method.apply(tiny_bert()), method, total_steps=3, lr=1e-2)
    for step in range(3):
        run.train_step(batch(classification_rows(8, seed=step)))
    run.model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(run.model), rtol=0, atol=3e-6)
    assert not torch.allclose(logits(loaded), logits(tiny_bert()), atol=1e-3)


def first_move(r: int, *, rslora: bool) -> float:
    """Length of the weight's change in the first step of SGD, relative to its gradient's."""
    torch.manual_seed(0)
    method = LoRA(r=r, lora_alpha=8, use_rslora=rslora, target_modules=r".*\.?\d+")
    (pair,) = named_pairs(method.apply(Tanh([torch.randn(64, 512)]))).values()
    G, s, A = torch.randn(64, 512), pair.scaling, pair.A.detach()
    return float((s * (s * G @ A.T) @ A).norm() / G.norm())


def test_how_the_first_step_goes_with_the_rank() -> None:
    """W moves by -lr G s^2 A^T A, with r eigenvalues of about s^2 / 3: in length s^2 sqrt(r) / 3.

    That is r^(-1/2) at s = alpha / sqrt(r), and r^(-3/2) at s = alpha / r.
    """
    rs, plain = (
        first_move(64, rslora=rslora) / first_move(4, rslora=rslora) for rslora in (True, False)
    )
    assert rs == pytest.approx(1 / 4, rel=0.1)
    assert plain == pytest.approx(1 / 64, rel=0.1)
