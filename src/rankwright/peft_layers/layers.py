"""The adapted layers of a model, and the parameters of their factors."""

from __future__ import annotations

from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from rankwright.errors import MethodError


def adapted_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Return every LoRA layer of `model`, by module name; none if only whole modules are trained.

    Raises:
        MethodError: The model carries no adapter.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    if not layers and not any(isinstance(m, ModulesToSaveWrapper) for m in model.modules()):
        raise MethodError(
            f"{type(model).__name__} has no adapted layer; call model = method.apply(model) first"
        )
    return layers


def factor_parameters(name: str, layer: LoraLayer, adapter: str) -> tuple[Tensor, Tensor]:
    """Return A (r, in) and B (out, r) of a linear layer; for a gated factor, without its gates.

    Args:
        name: Name of the layer, for the message.
        layer: The layer.
        adapter: Name of the adapter.

    Raises:
        MethodError: The layer is not linear.
    """
    factors = [dict(each.items()).get(adapter) for each in (layer.lora_A, layer.lora_B)]
    found = [getattr(factor, "live", getattr(factor, "weight", None)) for factor in factors]
    A, B = found
    if A is None or B is None or A.ndim != 2 or B.ndim != 2:
        raise MethodError(
            f"{name} is a {type(layer.get_base_layer()).__name__}, and this works on the factors "
            "of linear layers only; leave it out of target_modules"
        )
    return A, B
