"""Mixture-of-experts weights that transformers stores as parameters instead of linear layers.

PEFT adapts such a parameter, and that of the router, through a `ParamWrapper`. With "all-linear" it
does so by default for models whose experts used to be linear layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import nn

from rankwright.errors import MethodError
from rankwright.peft_layers.rank_patterns import target_name

_ATTENTION = ("attn", "attention")


def check_experts(
    method: str, unable: Sequence[str], layers: Mapping[str, LoraLayer], model: nn.Module
) -> None:
    """Refuse adapted experts under a part that does not support them.

    Args:
        method: Name of the method, for messages.
        unable: Names of its parts that do not support them.
        layers: The adapted layers by name.
        model: The base model.

    Raises:
        MethodError: Experts are adapted, and a part does not support them.
    """
    wrapped = _adapted(layers)
    if wrapped and unable:
        raise MethodError(
            f"{method} does not work on {next(iter(wrapped))}, a parameter of "
            f"{type(model).__name__} and not a linear layer: {' and '.join(unable)} does not "
            f"support it; {advice(model)}"
        )


def advice(model: nn.Module) -> str:
    """Return the advice to target the linear layers of the attention instead of the experts."""
    linears = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    # the model may already carry the adapter: keep the names of the base model
    named = [name.partition(".base_layer")[0] for name in linears if ".lora_" not in name]
    attention = [name for name in named if any(word in name for word in _ATTENTION)] or named
    ends = dict.fromkeys(name.rpartition(".")[2] for name in attention)
    names = ", ".join(f'"{end}"' for end in ends)
    return f"name the attention modules, which are supported: target_modules=[{names}]"


def expert_notice(model: PeftModel, adapter: str) -> str | None:
    """Return one line that names the adapted parameters of experts and routers; None without any.

    Args:
        model: The adapted model.
        adapter: Name of the adapter.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    adapted = _adapted(layers)
    if not adapted:
        return None
    kinds: dict[str, list[Any]] = {}
    for name, layer in adapted.items():
        kinds.setdefault(_without_number(name), []).append(layer)
    each = (
        f"{kind} (rank {found[0].r[adapter]}, in {len(found)} layers)"
        for kind, found in kinds.items()
    )
    share = _size(adapted.values(), adapter) / _size(layers.values(), adapter)
    return (
        f"experts and routers are adapted: {', '.join(each)}; they have {share:.0%} of the "
        f"parameters of all factors. To leave them out, {advice(model.get_base_model())}"
    )


def left_out_notice(model: PeftModel) -> str | None:
    """Return one line that names the experts left without adapter; None if there are no experts."""
    left = dict.fromkeys(map(_without_number, _experts(model.get_base_model())))
    if not left:
        return None
    return (
        f"the experts are not adapted, because they are parameters and not linear layers: "
        f"{', '.join(left)}"
    )


def _adapted(layers: Mapping[str, LoraLayer]) -> dict[str, LoraLayer]:
    """Return the layers over bare parameters, by the name of the parameter."""
    return {
        target_name(name, layer): layer
        for name, layer in layers.items()
        if isinstance(layer, ParamWrapper)
    }


def _experts(model: nn.Module) -> list[str]:
    """Return the names of the parameters that hold a matrix for every expert."""
    return [
        f"{name}.{parameter_name}"
        for name, module in model.named_modules()
        if "Expert" in type(module).__name__
        for parameter_name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3
    ]


def _without_number(name: str) -> str:
    """Return the part of a name after its last number, such as `mlp.experts.down_proj`."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :]) if numbers else name


def _size(layers: Iterable[LoraLayer], adapter: str) -> int:
    factors = (factor for layer in layers for factor in (layer.lora_A, layer.lora_B))
    return sum(p.numel() for f in factors if adapter in f for p in f[adapter].parameters())
