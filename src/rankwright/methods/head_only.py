"""Head only: the pretrained model is frozen and nothing but its head is trained.

    logits = head(h(x)),    h frozen; the classifier, or the layer that turns states into words

The cheap end of the scale: what a task gets from the features that the model already has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from rankwright.core.method_registry import register_method
from rankwright.core.search_space import LogRange, SearchSpace
from rankwright.methods._whole_modules import Whole, word_head


@register_method
@dataclass(frozen=True, kw_only=True)
class HeadOnly(Whole):
    """The head alone; no fields of its own."""

    name: ClassVar[str] = "head_only"
    summary: ClassVar[str] = "trains the head over the frozen model: the cheap end of the scale"
    reference: ClassVar[str] = "Donahue et al., ICML 2014, arXiv 1310.1531"
    cost: ClassVar[str] = "1 pass per step; the head's parameters"
    space: ClassVar[SearchSpace] = {"head_learning_rate": LogRange(1e-3, 1e-1)}

    def modules(self, model: nn.Module) -> list[str]:
        """The head over words of a language model; a classifier's head is trained by itself."""
        head = word_head(model)
        return [] if head is None else [head]
