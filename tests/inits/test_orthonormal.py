"""The orthonormal start: rows of A, the base function, draws."""

from __future__ import annotations

import torch

from bilevel_toy import batch, toy
from rankwright.inits import Orthonormal
from rankwright.methods import LoRA

METHOD = LoRA(r=3, target_modules=["l0", "l1"]).with_parts(init=Orthonormal())


def test_rows_are_orthonormal_and_the_model_is_the_base() -> None:
    model = METHOD.apply(toy())
    x, _ = batch(0)
    assert torch.equal(model(x), toy()(x))
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            eye = torch.eye(3, dtype=torch.float64)
            torch.testing.assert_close(parameter @ parameter.T, eye, rtol=0, atol=1e-6)


def test_another_seed_gives_another_start() -> None:
    same, other = (METHOD.apply(toy(), seed=seed) for seed in (0, 1))
    again = METHOD.apply(toy(), seed=0)
    name = "base_model.model.l0.lora_A.default.weight"
    assert torch.equal(same.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(same.get_parameter(name), other.get_parameter(name))
