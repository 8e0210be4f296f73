"""The adapted layers of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from rankwright.errors import MethodError

if TYPE_CHECKING:
    pass


def adapted_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Every LoRA layer of `model`, by module name; none where whole modules are trained instead.

    Raises:
        MethodError: The model carries no adapter.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    if not layers and not any(isinstance(m, ModulesToSaveWrapper) for m in model.modules()):
        raise MethodError(
            f"{type(model).__name__} has no adapted layer; call model = method.apply(model) first"
        )
    return layers
