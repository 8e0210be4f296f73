"""OLoRA against `data/olora`: figures that PEFT's implementation made on plain linear layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from rankwright.core.loop import Loop, constant_schedule
from rankwright.layers import effective_weight
from rankwright.methods import OLoRA

DATA = Path(__file__).parent / "data" / "olora"


def linears(weights: list[Tensor], *between: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for weight in weights:
        out, in_ = weight.shape
        layer = nn.Linear(in_, out, bias=False, dtype=weight.dtype)
        layer.load_state_dict({"weight": weight})
        layers += [layer, *between]
    return nn.Sequential(*layers[: len(layers) - len(between)])


def started(W: Tensor, **fields: Any) -> PeftModel:
    return OLoRA(target_modules=["0"], **fields).apply(linears([W]))


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(
    ("file", "r", "alpha", "tolerance"), [("init_fp32", 3, 6, 1e-6), ("init_bf16", 4, 8, 1e-6)]
)
def test_init(file: str, r: int, alpha: float, tolerance: float) -> None:
    g = load_file(DATA / f"{file}.safetensors")
    count = sum(key.startswith("W.") for key in g)
    assert count >= 2
    for i in range(count):
        W = g[f"W.{i}"]
        module = started(W, r=r, lora_alpha=alpha).base_model.model[0]
        lora_A, lora_B = module.lora_A["default"], module.lora_B["default"]
        A, B = lora_A.live.detach(), lora_B.live.detach()
        companion = 2.0 * lora_B.history @ lora_A.history
        assert relative(B @ A, g[f"BA_exact.{i}"]) < tolerance
        assert relative(W.float() + companion, g[f"W_res_exact.{i}"]) < tolerance
        torch.testing.assert_close(B.T @ B, torch.eye(r), rtol=0, atol=1e-6)
        sum_of_parts = W.float() + companion + 2.0 * B @ A
        assert relative(sum_of_parts, W) < 1e-7
        if W.dtype == torch.bfloat16:  # where PEFT's residual and factors miss W
            peft = g[f"W_res.{i}"].float() + 2.0 * g[f"B.{i}"].float() @ g[f"A.{i}"].float()
            assert relative(peft, W) > 3e-3
        assert torch.equal(module.get_base_layer().weight, W)


def test_five_steps_and_the_conversion() -> None:
    g = load_file(DATA / "train5_convert.safetensors")
    weights, x, y = [g["W.0"], g["W.1"]], g["x"], g["y"]
    method = OLoRA(target_modules=["0", "2"], r=2, lora_alpha=4.0)
    model = method.apply(linears(weights, nn.Tanh()))
    torch.testing.assert_close(model(x[0]), linears(weights, nn.Tanh())(x[0]))
    modules = {i: model.base_model.model[2 * i] for i in (0, 1)}
    for i, module in modules.items():  # the signs that LAPACK had there
        for factor, init, sign in (("lora_A", "A_init", 1), ("lora_B", "B_init", -1)):
            stack = getattr(module, factor)["default"]
            stack.live.data.copy_(g[f"{init}.{i}"])
            stack.history.copy_(sign * g[f"{init}.{i}"])
    run = Loop(
        *(model, method),
        total_steps=5,
        lr=0.01,
        schedule=constant_schedule,
        loss=lambda net, step: F.mse_loss(net(x[step]), y[step]),
    )
    losses = []
    for step in range(5):
        losses.append(run.train_step(step))
        for i, module in modules.items():
            for name in ("A", "B"):
                live = getattr(module, f"lora_{name}")["default"].live
                assert relative(live.detach(), g[f"step{step}.{name}.{i}"]) < 1e-5
    torch.testing.assert_close(torch.tensor(losses), g["loss"].float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(model(x[-1]), g["pred_last"], rtol=1e-5, atol=1e-6)

    state = get_peft_model_state_dict(model)
    for i, module in modules.items():
        saved = [state[f"base_model.model.{2 * i}.lora_{name}.weight"] for name in ("A", "B")]
        assert saved[0].shape[0] == saved[1].shape[1] == 4
        delta = 2.0 * g[f"converted.B.{i}"] @ g[f"converted.A.{i}"]
        assert relative(2.0 * saved[1] @ saved[0], delta) < 1e-4
        assert relative(effective_weight(module, "default"), weights[i] + delta) < 1e-6
    assert (model.peft_config["default"].r, model.peft_config["default"].lora_alpha) == (4, 8.0)
