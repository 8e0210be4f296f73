"""Full fine-tuning: every weight is trained, nothing is added.

    y = x W'^T + b',    W' (out, in) and b' (out,) start at the pretrained W and b

What adapters are measured against: it trains and stores as many numbers as the model has. The
frozen W and b stay in memory beside W' and b', so that the base model can be had back; fine-tuning
without rankwright needs one copy of the weights less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from rankwright.core.method_registry import register_method
from rankwright.core.search_space import LogRange, SearchSpace
from rankwright.errors import MethodError
from rankwright.methods._whole_modules import Whole, owners


@register_method
@dataclass(frozen=True, kw_only=True)
class Full(Whole):
    """Every module that has parameters, trained in full; no fields of its own."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "trains every weight of the model: the costly end of the scale"
    reference: ClassVar[str] = "Howard, Ruder, ACL 2018, arXiv 1801.06146"
    cost: ClassVar[str] = "1 pass per step; all parameters of the model, and a frozen copy of them"
    space: ClassVar[SearchSpace] = {
        "learning_rate": LogRange(1e-5, 1e-3),
        "head_learning_rate": LogRange(1e-3, 1e-1),
    }

    def modules(self, model: nn.Module) -> list[str]:
        """All of them.

        Raises:
            MethodError: The model is an encoder-decoder.
        """
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise MethodError(
                f"full cannot train {type(model).__name__}, whose encoder and decoder share their "
                "word embeddings: copies of them would not stay one weight; expected a model with "
                "an encoder or a decoder alone; use a method with factors, such as lora"
            )
        return owners(model)
