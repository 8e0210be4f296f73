"""Experts: weights of a mixture that transformers keeps as one parameter, not as linear layers.

PEFT adapts such a parameter, and the router beside it, through a `ParamWrapper`; with
"all-linear" it does so by itself for the models whose experts were linear layers once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from torch import nn

from rankwright.core.catalogue import part_name
from rankwright.core.errors import MethodError
from rankwright.core.part import Part
from rankwright.core.ranks import target_name

_ATTENTION = ("attn", "attention")


def check_experts(
    method: str, parts: Iterable[Part], layers: Mapping[str, LoraLayer], model: nn.Module
) -> None:
    """Refuse experts under a part that does not know them.

    Args:
        method: Name of the method, for messages.
        parts: What its slots are filled with.
        layers: The adapted layers by name.
        model: The base model.

    Raises:
        MethodError: There are both.
    """
    wrapped = _adapted(layers)
    unable = [part_name(part) for part in parts if not part.experts]
    if wrapped and unable:
        raise MethodError(
            f"{method} does not work on {next(iter(wrapped))}, which is a parameter of "
            f"{type(model).__name__} and no linear layer: {' and '.join(unable)} cannot work on "
            f"it; {advice(model)}"
        )


def advice(model: nn.Module) -> str:
    """What to do where experts cannot be adapted: name the linear layers of the attention."""
    linears = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    # the adapter may be on already
    named = [name.partition(".base_layer")[0] for name in linears if ".lora_" not in name]
    attention = [name for name in named if any(word in name for word in _ATTENTION)] or named
    ends = dict.fromkeys(name.rpartition(".")[2] for name in attention)
    names = ", ".join(f'"{end}"' for end in ends)
    return f"name the attention modules, which it works on: target_modules=[{names}]"


def expert_notice(model: PeftModel, adapter: str) -> str | None:
    """One line: which parameters of experts and routers are adapted; None if there are none.

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
        f"experts and routers are adapted: {', '.join(each)}; {share:.0%} of the factors' numbers "
        f"are theirs. To leave them out, {advice(model.get_base_model())}"
    )


def left_out_notice(model: PeftModel) -> str | None:
    """One line: the experts that a model has, none of which is adapted; None without experts."""
    left = dict.fromkeys(map(_without_number, _experts(model.get_base_model())))
    if not left:
        return None
    return (
        f"the experts are not adapted, for they are parameters and no linear layers: "
        f"{', '.join(left)}"
    )


def _adapted(layers: Mapping[str, LoraLayer]) -> dict[str, LoraLayer]:
    """Layers over bare parameters, by the name of the parameter."""
    return {
        target_name(name, layer): layer
        for name, layer in layers.items()
        if isinstance(layer, ParamWrapper)
    }


def _experts(model: nn.Module) -> list[str]:
    """Names of the parameters that hold a matrix for every expert."""
    return [
        f"{name}.{parameter_name}"
        for name, module in model.named_modules()
        if "Expert" in type(module).__name__
        for parameter_name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3
    ]


def _without_number(name: str) -> str:
    """`mlp.experts.down_proj` of `model.layers.3.mlp.experts.down_proj`."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :]) if numbers else name


def _size(layers: Iterable[LoraLayer], adapter: str) -> int:
    factors = (factor for layer in layers for factor in (layer.lora_A, layer.lora_B))
    return sum(p.numel() for f in factors if adapter in f for p in f[adapter].parameters())
