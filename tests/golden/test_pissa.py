"""PiSSA's start against `data/lora/pissa_init`, the figures of PEFT's implementation."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rankwright.algebra.row_norms import row_norm_sq
from rankwright.methods import PiSSA

DATA = Path(__file__).parent / "data" / "lora"


def close(actual: Tensor, expected: Tensor) -> None:
    expected = expected.float()
    atol = 1e-5 * float(expected.abs().max())  # the note allows 1e-4 in float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=atol)


def test_init() -> None:
    g = load_file(DATA / "pissa_init.safetensors")
    layer = nn.Linear(16, 12, bias=False)
    layer.load_state_dict({"weight": g["W"]})
    model = PiSSA(r=4, lora_alpha=8.0, target_modules=["0"]).apply(nn.Sequential(layer))
    module = model.base_model.model[0]
    A, B = (getattr(module, f"lora_{name}")["default"].live.detach() for name in "AB")
    history = [getattr(module, f"lora_{name}")["default"].history for name in "AB"]
    close(2.0 * B @ A, g["sBA"])
    close(g["W"] + 2.0 * history[1] @ history[0], g["W_res"])
    close(A @ A.T, g["AAt"])
    close(B.T @ B, g["AAt"])
    rest = torch.linalg.svdvals(g["W"] - 2.0 * B @ A)
    close(rest[:8], g["singular_values"][4:])
    close(row_norm_sq(g["W"] - 2.0 * B @ A).sum(), g["singular_values"][4:].square().sum())
    assert torch.equal(layer.weight, g["W"])
