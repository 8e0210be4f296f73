"""The DoRA layer against the figures in `data/dora`: trajectories of training, four layer types."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rankwright.layers import effective_weight, use_factored_dora

DATA = Path(__file__).parent / "data" / "dora"
RTOL = 1e-12  # golden trajectories agree to 1e-12 in float64; the notes measure 6e-16


def close(actual: Any, expected: Tensor) -> None:
    expected = expected.view_as(actual)
    torch.testing.assert_close(actual, expected, rtol=RTOL, atol=RTOL * float(expected.abs().max()))


def adapted(
    layer: nn.Module, g: dict[str, Tensor], r: int, alpha: float, norm_grad: Any = "detached"
) -> Any:
    """(model, LoRA layer): `layer` with the file's base weight under a fresh DoRA adapter."""
    layer.double().load_state_dict({"weight": g["W"]} | ({"bias": g["b"]} if "b" in g else {}))
    config = LoraConfig(
        target_modules=["0"],
        r=r,
        lora_alpha=alpha,
        use_dora=True,
        fan_in_fan_out=isinstance(layer, Conv1D),
    )
    model = get_peft_model(nn.Sequential(layer), config)
    use_factored_dora(model, norm_grad=norm_grad)
    return model, model.base_model.model[0]


def parameters(module: LoraLayer) -> dict[str, nn.Parameter]:
    m = module.lora_magnitude_vector["default"].weight
    if module.lora_embedding_A:
        A, B = module.lora_embedding_A["default"], module.lora_embedding_B["default"]
    else:
        A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
    return {"A": A, "B": B, "m": m}


def write(module: LoraLayer, values: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    with torch.no_grad():
        for name, parameter in parameters(module).items():
            parameter.copy_(values[name])
    return parameters(module)


TRAJECTORIES: dict[str, tuple[Callable[[], nn.Module], int, float, str, Callable[..., Any]]] = {
    "linear_detached_adamw": (
        lambda: nn.Linear(10, 8),
        3,
        6,
        "detached",
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.01),
    ),
    "linear_fullgrad_sgd": (
        lambda: nn.Linear(6, 9, bias=False),
        2,
        2,
        "full",
        lambda p: torch.optim.SGD(p, lr=5e-2),
    ),
}


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_trajectory(name: str) -> None:
    layer, r, alpha, norm_grad, optimizer_of = TRAJECTORIES[name]
    g = load_file(DATA / f"{name}.safetensors")
    model, module = adapted(layer(), g, r, alpha, norm_grad)
    close(parameters(module)["m"], g["init.m"])
    theta = write(module, {key: g[f"init.{key}"] for key in "ABm"})
    optimizer = optimizer_of(theta.values())
    for t in range(1, 6):
        x = g[f"x{t}"].requires_grad_()
        y = model(x)
        loss: Any = nn.functional.mse_loss(y, g[f"target{t}"])
        optimizer.zero_grad()
        loss.backward()
        close(y, g[f"y{t}"])
        close(loss, g[f"loss{t}"])
        close(x.grad, g[f"grad{t}.x"])
        for key, parameter in theta.items():
            close(parameter.grad, g[f"grad{t}.{key}"])
        optimizer.step()
        for key, parameter in theta.items():
            close(parameter, g[f"step{t}.{key}"])
    close(module.lora_variant["default"].row_norm(module, "default"), g["final.row_norm"])
    close(effective_weight(module, "default"), g["final.W_merged"])
    model.merge_adapter(safe_merge=True)
    close(module.base_layer.weight, g["final.W_merged"])


LAYERS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "peft_conv1d_gpt2": (lambda: Conv1D(7, 5), 3),
    "peft_conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), 4),
    "peft_embedding": (lambda: nn.Embedding(11, 6), 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    layer, alpha = LAYERS[name]
    g = load_file(DATA / f"{name}.safetensors")
    model, module = adapted(layer(), g, 2, alpha)
    close(parameters(module)["m"], g["m_init"])
    theta = write(module, g)
    y = model(g["x"])
    y.backward(g["cot"])
    close(y, g["y"])
    for key, parameter in theta.items():
        close(parameter.grad, g[f"grad_{key}"])
    W_eff = effective_weight(module, "default")
    close(W_eff.T.contiguous() if name == "peft_conv1d_gpt2" else W_eff, g["W_eff"])
