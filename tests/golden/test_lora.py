"""Plain LoRA: PEFT's layer and `effective_weight` against the figures in `data/lora`."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from rankwright.layers import effective_weight

DATA = Path(__file__).parent / "data" / "lora"
RTOL = 1e-12  # of the notes


def close(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=RTOL, atol=RTOL * float(expected.abs().max()))


def adapted(layer: nn.Module, r: int, alpha: float) -> PeftModel:
    config = LoraConfig(target_modules=["0"], r=r, lora_alpha=alpha)
    return get_peft_model(nn.Sequential(layer), config)


def test_linear() -> None:
    g = load_file(DATA / "linear.safetensors")
    layer = nn.Linear(12, 10).double()
    layer.load_state_dict({"weight": g["W"], "bias": g["bias"]})
    model = adapted(layer, r=4, alpha=16)
    module = model.base_model.model[0]
    A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
    with torch.no_grad():
        A.copy_(g["A"])
        B.copy_(g["B"])
    x = g["x"].requires_grad_()
    y = model(x)
    y.backward(g["grad_y"])

    close(y, g["y"])
    close(A.grad, g["grad_A"])
    close(B.grad, g["grad_B"])
    close(x.grad, g["grad_x"])
    close(effective_weight(module, "default"), g["W_merged"])
    close(4.0 * B.T @ g["grad_W_virtual"], g["grad_A"])
    close(4.0 * g["grad_W_virtual"] @ A.T, g["grad_B"])


def test_embedding() -> None:
    g = load_file(DATA / "other_layers.safetensors")
    layer = nn.Embedding(11, 6).double()
    layer.load_state_dict({"weight": g["em_W"]})
    model = adapted(layer, r=2, alpha=3)
    module = model.base_model.model[0]
    with torch.no_grad():
        module.lora_embedding_A["default"].copy_(g["em_A"])
        module.lora_embedding_B["default"].copy_(g["em_B"])

    close(model(g["em_ids"]), g["em_y"])
    close(effective_weight(module, "default")[g["em_ids"]], g["em_y"])


def test_fused_projection_is_two_peft_factors_of_twice_the_rank() -> None:
    """loralib gives each group of a fused projection its own pair; PEFT has one pair a matrix.

    The same function in PEFT's parametrisation: stacked `A`, block-diagonal `B`, alpha doubled.
    """
    g = load_file(DATA / "other_layers.safetensors")
    layer = nn.Linear(8, 12, bias=False).double()
    layer.load_state_dict({"weight": g["ml_W"]})
    model = adapted(layer, r=6, alpha=12)
    module = model.base_model.model[0]
    with torch.no_grad():
        B = module.lora_B["default"].weight.zero_()
        B[:4, :3], B[8:, 3:] = g["ml_B"][:4], g["ml_B"][4:]  # outputs 4..7 are not adapted
        module.lora_A["default"].weight.copy_(g["ml_A"])

    close(model(g["ml_x"]), g["ml_y"])
    close(effective_weight(module, "default") - g["ml_W"], g["ml_deltaW"])


def test_convolution_by_its_effective_kernel() -> None:
    """loralib views `B A`, of rank r * k, as the kernel; PEFT convolves to r channels, then 1 x 1.

    Neither can be written as the other at equal rank, so only the closed form is common: loralib's
    kernel, written as PEFT factors of rank 6 by an SVD, must give loralib's output.
    """
    g = load_file(DATA / "other_layers.safetensors")
    delta = (2.0 * g["cv_B"] @ g["cv_A"]).view(6, 4, 3, 3)
    close(F.conv2d(g["cv_x"], g["cv_W"] + delta, padding=1), g["cv_y"])

    layer = nn.Conv2d(4, 6, 3, padding=1, bias=False).double()
    layer.load_state_dict({"weight": g["cv_W"]})
    model = adapted(layer, r=6, alpha=6)
    module = model.base_model.model[0]
    left, sigma, right = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    with torch.no_grad():
        module.lora_A["default"].weight.copy_((sigma[:, None] * right).view(6, 4, 3, 3))
        module.lora_B["default"].weight.copy_(left.view(6, 6, 1, 1))

    close(model(g["cv_x"]), g["cv_y"])
    close(effective_weight(module, "default"), g["cv_W"] + delta)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_scaling_is_the_layers_own(use_rslora: bool) -> None:
    config = LoraConfig(
        target_modules=["0", "1"],
        r=16,
        lora_alpha=16,
        use_rslora=use_rslora,
        rank_pattern={"1": 4},
        init_lora_weights=False,
    )
    model = get_peft_model(nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20)), config)
    for module, s in zip(model.base_model.model, (4.0, 8.0) if use_rslora else (1, 4), strict=True):
        A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
        torch.testing.assert_close(
            effective_weight(module, "default"), module.base_layer.weight + s * B @ A
        )
