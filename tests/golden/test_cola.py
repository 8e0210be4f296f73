"""COLA against `data/cola`: a public implementation's trajectories, and a derived export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chain_toy import Tanh, chained
from chain_trajectory import close, follow, output
from rankwright.algebra.truncation import truncated_product
from rankwright.core.loop import constant_schedule, linear_schedule
from rankwright.layers.stacked.layer import stacks, write_ranks
from rankwright.procedures.chain.chain import Chain

DATA = Path(__file__).parent / "data" / "cola"


@pytest.mark.parametrize(
    ("file", "options"),
    [
        (
            "chain3_adamw",
            {
                "rounds": 3,
                "r": 2,
                "alpha": 4,
                "lr": 0.03,
                "optimizer": torch.optim.AdamW,
                "schedule": linear_schedule,
            },
        ),
        (
            "chain2_sgd",
            {
                "rounds": 2,
                "r": 3,
                "alpha": 3,
                "lr": 0.2,
                "optimizer": torch.optim.SGD,
                "schedule": constant_schedule,
            },
        ),
    ],
)
@pytest.mark.parametrize("mode", ["history", "fold"])
def test_trajectory(mode: str, file: str, options: dict[str, Any]) -> None:
    follow(load_file(DATA / f"{file}.safetensors"), mode=mode, rank_cap=1, **options)


@torch.no_grad()
def test_links_of_different_rank_and_scaling_are_one_lora() -> None:
    g = load_file(DATA / "concat_export.safetensors")
    model, _ = chained(Tanh([g["W"]]), Chain(), r=4, lora_alpha=4)
    (stack,) = found = list(stacks({"0": model.base_model.model.layers[0]}, "default").values())
    for i, s in enumerate((8 / 4, 4 / 2, 3 / 1)):
        A, B = g[f"link{i}.A"], g[f"link{i}.B"]
        stack.narrow(len(A))
        stack.start(A, B)
        stack.absorb(s)  # the stack's own s is 1
    stack.select(False)
    write_ranks(model, "default", {"base_model.model.layers.0": found[0]})
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (7, 7)
    close(stack.A.weight, g["export.A"])
    close(stack.B.weight, g["export.B"])
    close(stack.layer.get_delta_weight("default"), g["delta"])
    close(output(model, g["X"]), g["Y"])

    low = truncated_product(stack.A.weight, stack.B.weight, 3)
    close(low.B @ low.A, g["trunc.delta"])
    close(low.relative_error, torch.tensor(0.276371748044, dtype=torch.float64))
    sigma = torch.linalg.svdvals(g["delta"])
    torch.testing.assert_close(sigma, g["sigma"], rtol=1e-9, atol=1e-12)
