"""Factors that are held constant stay so whatever PEFT does in between."""

from __future__ import annotations

import pytest
import torch

from models import tiny_bert, tokens
from rankwright.core.method import Method
from rankwright.layers.frozen import held_constant
from rankwright.methods import BiDoRA, DoRA, LoRAFA


@pytest.mark.parametrize(
    "method",
    [
        DoRA(r=2, target_modules=["word_embeddings", "query", "dense"]),
        BiDoRA(r=2),
        LoRAFA(r=2),
    ],
    ids=lambda m: m.name,
)
def test_held_through_an_adapter_that_is_switched_off_and_on(method: Method) -> None:
    model = method.apply(tiny_bert())
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    held = [p for n, p in trained.items() if "magnitude" not in n]

    def flags() -> list[bool]:
        model(input_ids=tokens(1))  # as the forward finds them
        return [p.requires_grad for p in held]

    with held_constant(model, "default", held):
        assert not any(flags())
        with model.disable_adapter():
            assert not any(flags())
        assert not any(flags())
        model.set_adapter("default")
        assert not any(flags())
        kept = {n for n, p in model.named_parameters() if p.requires_grad}
        assert kept == {n for n in trained if "magnitude" in n}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(trained)
    with model.disable_adapter():
        pass
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(trained)
    loss = model(input_ids=tokens(1)).logits.sum()
    torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
