"""BiDoRA's layer, Gram penalty and weight-decomposition analysis against `data/bidora`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from rankwright.algebra.row_norms import factored_row_norm, row_norm_sq
from rankwright.layers import effective_weight, use_factored_dora
from rankwright.peft_layers.decomposition import weight_decomposition
from rankwright.peft_layers.weight_view import base_rows, low_rank_factors
from rankwright.penalties import Gram

DATA = Path(__file__).parent / "data" / "bidora"
RTOL = 1e-12  # the notes measure 7e-16


def close(actual: Any, expected: Tensor) -> None:
    expected = expected.view_as(actual)
    torch.testing.assert_close(actual, expected, rtol=RTOL, atol=RTOL * float(expected.abs().max()))


def adapted(g: dict[str, Tensor], norm_grad: Any) -> Any:
    layer = nn.Linear(12, 9, bias=False).double()
    layer.load_state_dict({"weight": g["W"]})
    config = LoraConfig(target_modules=["0"], r=3, lora_alpha=3, use_dora=True)
    model = get_peft_model(nn.Sequential(layer), config)
    use_factored_dora(model, norm_grad=norm_grad)
    module = model.base_model.model[0]
    with torch.no_grad():
        module.lora_A["default"].weight.copy_(g["A"])
        module.lora_B["default"].weight.copy_(g["B"])
        module.lora_magnitude_vector["default"].weight.copy_(g["m"])
    return model, module


@pytest.mark.parametrize(("norm_grad", "prefix"), [("full", ""), ("detached", "detached.")])
def test_forward_and_backward(norm_grad: str, prefix: str) -> None:
    g = load_file(DATA / "layer_fwd_bwd.safetensors")
    model, module = adapted(g, norm_grad)
    x = g["x"].requires_grad_()
    y = model(x)
    y.backward(g["cot"])
    close(y, g["y"])
    close(x.grad, g[f"{prefix}grad_x"])
    close(module.lora_A["default"].weight.grad, g[f"{prefix}grad_A"])
    close(module.lora_B["default"].weight.grad, g[f"{prefix}grad_B"])
    close(module.lora_magnitude_vector["default"].weight.grad, g[f"{prefix}grad_m"])
    close(effective_weight(module, "default"), g["W_eff"])
    A, B, s = low_rank_factors(module, "default")
    W = base_rows(module)
    close(factored_row_norm(W, A, B, s, row_norm_sq(W)), g["row_norm"])


def test_gram_penalty() -> None:
    g = load_file(DATA / "layer_fwd_bwd.safetensors")
    _, module = adapted(g, "full")
    run: Any = SimpleNamespace(layers={"0": module}, adapter_name="default", step=0)
    close(Gram(weight=1.0, form="squared")(run), g["reg_fro_squared"])
    value: Any = Gram(weight=1.0)(run)
    value.backward()
    close(value, g["reg_fro"])
    close(module.lora_A["default"].weight.grad, g["reg_grad_A"])
    close(module.lora_B["default"].weight.grad, g["reg_grad_B"])
    assert module.lora_magnitude_vector["default"].weight.grad is None
    assert module.base_layer.weight.grad is None


def test_weight_decomposition() -> None:
    g = load_file(DATA / "wda.safetensors")
    names = ["l0", "l1", "l2"]
    found = weight_decomposition(
        {name: g[f"{name}.W0"] for name in names},
        [{name: g[f"{name}.W{t}"] for name in names} for t in range(1, 5)],
    )
    assert found.modules == ("l0", "l1", "l2")
    close(found.magnitude, g["delta_M"])
    close(found.direction, g["delta_D"])
    for name in ("slope", "intercept", "pearson"):
        assert getattr(found, name) == pytest.approx(float(g[name]), rel=RTOL)
