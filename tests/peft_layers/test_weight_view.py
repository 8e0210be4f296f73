"""The matrix view of a layer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rankwright.peft_layers.weight_view import (
    as_rows,
    as_weight,
    effective_weight,
    low_rank_factors,
)

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(7, 5),
    "Conv1D": lambda: Conv1D(5, 7),
    "Conv1d": lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2),
    "Conv2d": lambda: nn.Conv2d(4, 6, (3, 1)),
    "Conv3d": lambda: nn.Conv3d(2, 3, 2),
    "Embedding": lambda: nn.Embedding(11, 6),
}
INPUTS: dict[str, tuple[int, ...]] = {
    "Linear": (3, 7),
    "Conv1D": (3, 7),
    "Conv1d": (2, 4, 9),
    "Conv2d": (2, 4, 5, 5),
    "Conv3d": (2, 2, 3, 3, 3),
}


def adapted(layer: nn.Module, **options: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(
        target_modules=["0"],
        r=2,
        lora_alpha=3,
        init_lora_weights=False,
        fan_in_fan_out=isinstance(layer, Conv1D),
        **options,
    )
    return get_peft_model(nn.Sequential(layer.double()), config)


def example(kind: str) -> Tensor:
    torch.manual_seed(1)
    if kind == "Embedding":
        return torch.randint(11, (3, 4))
    return torch.randn(INPUTS[kind], dtype=torch.float64)


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", LAYERS)
def test_effective_weight_is_what_the_layer_computes_with(kind: str, use_dora: bool) -> None:
    model = adapted(LAYERS[kind](), use_dora=use_dora)
    module = model.base_model.model[0]
    if use_dora:
        module.lora_magnitude_vector["default"].weight.data.mul_(1.3)
    x = example(kind)
    expected = model(x)
    weight = effective_weight(module, "default")
    assert weight.shape == module.base_layer.weight.shape
    plain = LAYERS[kind]().double()
    plain.load_state_dict(module.base_layer.state_dict() | {"weight": weight})
    torch.testing.assert_close(plain(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_and_back(kind: str) -> None:
    module = adapted(LAYERS[kind]()).base_model.model[0]
    weight = module.base_layer.weight.detach()
    rows = as_rows(module, weight)
    A, B, s = low_rank_factors(module, "default")
    assert rows.shape == (B @ A).shape
    assert s == 1.5
    assert torch.equal(as_weight(module, rows), weight)


def test_refusals() -> None:
    merged = adapted(nn.Linear(4, 4))
    merged.merge_adapter()
    with pytest.raises(ValueError, match=r"\['default'\] are merged"):
        effective_weight(merged.base_model.model[0], "default")
    dilated = adapted(nn.Conv1d(4, 4, 3, dilation=2)).base_model.model[0]
    with pytest.raises(ValueError, match="ignores groups, dilation and padding_mode"):
        effective_weight(dilated, "default")
    attention = adapted(nn.MultiheadAttention(4, 2)).base_model.model[0]
    with pytest.raises(TypeError, match="MultiheadAttention has no single weight"):
        effective_weight(attention, "default")
