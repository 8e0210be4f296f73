"""LoRA layers with a factor that is not trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft.tuners.lora.layer import Embedding, LoraLayer

from rankwright.core.catalogue import part
from rankwright.core.errors import MethodError
from rankwright.core.part import Layer
from rankwright.core.run import adapted_layers

if TYPE_CHECKING:
    from peft import PeftModel


@part("frozen_a")
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
