"""LoRA layers with a factor that is not trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft.tuners.lora.layer import Embedding, LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from rankwright.core.part_registry import register_part
from rankwright.core.slots import Layer
from rankwright.errors import MethodError
from rankwright.peft_layers.layers import adapted_layers

if TYPE_CHECKING:
    from peft import PeftModel


@register_part("frozen_a")
@dataclass(frozen=True)
class FrozenA(Layer):
    """A stays as it was drawn, and B is trained.

    dL/dB needs x A^T (r numbers a token) and not x (in numbers), so that no input of an adapted
    layer waits for the backward pass on A's behalf.
    """

    def install(self, model: PeftModel, adapter_name: str) -> None:
        """Freeze every A.

        Raises:
            MethodError: A layer is an embedding, whose A starts at zero: nothing could be learned.
        """
        for name, layer in adapted_layers(model).items():
            if isinstance(layer, Embedding):
                raise MethodError(
                    f"{name} is an embedding, whose A starts at zero and would stay there; leave "
                    "it out of target_modules, or train both factors"
                )
            freeze(layer, adapter_name, ["lora_A"])
            layer.lora_A[adapter_name].requires_grad_(False)


def freeze(layer: LoraLayer, adapter_name: str, factors: Iterable[str]) -> None:
    """Have PEFT leave factors frozen whenever it enables the adapter; undone by naming none.

    Args:
        layer: The adapted layer.
        adapter_name: Name of the adapter.
        factors: Of "lora_A" and "lora_B" those that are not trained.
    """
    # a copy: the class-level dict is shared by all layers
    layer.frozen_peft_weight_names = {
        **layer.frozen_peft_weight_names,
        adapter_name: tuple(factors),
    }


@contextmanager
def held_constant(
    model: PeftModel, adapter_name: str, parameters: Iterable[nn.Parameter]
) -> Iterator[None]:
    """Freeze some parameters inside, so that nothing is kept or computed for their gradients.

    PEFT makes an adapter trainable whenever it enables it, as after the forward pass of a reference
    model. These parameters stay frozen even then, so that a forward pass recomputed during the
    backward pass saves the same tensors as the first time.

    Args:
        model: The adapted model.
        adapter_name: Name of the adapter.
        parameters: The parameters to freeze, all trainable: whole factors, or parameters of modules
            that are trained in full.
    """
    held = list(parameters)
    known = {id(parameter) for parameter in held}
    with ExitStack() as undone:
        undone.callback(_train, held, True)
        for module in model.modules():
            if isinstance(module, LoraLayer):
                frozen = module.frozen_peft_weight_names
                undone.callback(setattr, module, "frozen_peft_weight_names", frozen)
                names = _holding(module, adapter_name, known)
                freeze(module, adapter_name, [*frozen.get(adapter_name, ()), *names])
            elif isinstance(module, ModulesToSaveWrapper):
                own = [p for p in module.parameters() if id(p) in known]
                hook = module.register_forward_pre_hook(lambda *_, own=own: _train(own, False))
                undone.callback(hook.remove)
        _train(held, False)
        yield


def _train(parameters: Iterable[nn.Parameter], trained: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(trained)


def _holding(layer: LoraLayer, adapter_name: str, known: Collection[int]) -> Iterator[str]:
    """Attributes of a layer whose entry for the adapter has only known parameters."""
    for name in layer.adapter_layer_names:
        by_adapter: Any = getattr(layer, name)
        if adapter_name in by_adapter:
            part = by_adapter[adapter_name]
            own = [part] if isinstance(part, nn.Parameter) else [*part.parameters()]
            if own and all(id(parameter) in known for parameter in own):
                yield name
