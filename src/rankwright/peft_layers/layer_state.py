"""State of the adapted layers that the adapter's own file does not contain.

PEFT saves the state dict entries whose names contain `lora_` and the adapter's name. A layer part
may add other tensors to a layer. Of a factor that is computed from several parameters (gates), PEFT
saves only the product; a router beside the factors, or a non-persistent buffer, it does not save at
all. Checkpoints of a run contain these tensors, in their own dtypes, whichever part created them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rankwright.errors import MethodError


def layer_state(layers: Mapping[str, LoraLayer], adapter: str) -> dict[str, Tensor]:
    """Collect the parameters and buffers of adapted layers that the adapter's file lacks.

    A tensor that several layers share is listed once.

    Args:
        layers: Adapted layers by module name.
        adapter: Name of the adapter in training.

    Returns:
        Name in the model -> the tensor itself, detached but not copied.
    """
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for key, tensor in _beside_the_adapter(layer, adapter):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                state[f"{name}.{key}"] = tensor.detach()
    return state


@torch.no_grad()
def load_layer_state(
    layers: Mapping[str, LoraLayer], adapter: str, state: Mapping[str, Tensor]
) -> None:
    """Restore in place the tensors that `layer_state` collected.

    Args:
        layers: The same layers.
        adapter: Name of the adapter in training.
        state: From `layer_state`.

    Raises:
        MethodError: A tensor is missing, unknown, or of another shape.
    """
    present = layer_state(layers, adapter)
    for name in dict.fromkeys((*present, *state)):
        here, saved = _in_words(present.get(name)), _in_words(state.get(name))
        if here != saved:
            raise MethodError(
                f"this checkpoint cannot be resumed: {name} is {saved} in it and {here} in this "
                "run; another version of rankwright wrote it, or its layers had other settings. "
                "Resume with the same version and settings, or start a new run"
            )
    for name, tensor in present.items():
        tensor.copy_(state[name])


def _in_words(tensor: Tensor | None) -> str:
    return "not there" if tensor is None else f"of shape {tuple(tensor.shape)}"


def _beside_the_adapter(layer: LoraLayer, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of all state that PEFT does not save with the adapter."""
    others = set(layer.scaling) - {adapter}
    for path, module in layer.named_modules():
        parts = path.split(".") if path else []
        if parts[:1] == ["base_layer"] or others.intersection(parts[1:2]):
            continue
        if getattr(module, "weight_is_state", False):
            continue
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            key = ".".join((*parts, name))
            outside = others.intersection(key.split(".")[1:2])
            if tensor is not None and not outside and not _is_saved(layer, parts, name, adapter):
                yield key, tensor


def _is_saved(layer: nn.Module, parts: list[str], name: str, adapter: str) -> bool:
    """Return whether the adapter's file has a tensor of the module at `parts` by its own name."""
    around = [layer.get_submodule(".".join(parts[:n])) for n in range(1, len(parts) + 1)]
    module, key = [layer, *around][-1], ".".join((*parts, name))
    by_name = not any(map(_saves_itself, around))
    persistent = name not in module._non_persistent_buffers_set
    return by_name and persistent and key.startswith("lora_") and adapter in key.split(".")


def _saves_itself(module: nn.Module) -> bool:
    """Return whether a module defines how it and the modules inside it are saved."""
    kind = type(module)
    by_torch = (nn.Module.state_dict, nn.Module._save_to_state_dict)
    return (kind.state_dict, kind._save_to_state_dict) != by_torch
