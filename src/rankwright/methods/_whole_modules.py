"""Methods without factors: chosen modules are trained in full and saved beside an empty adapter.

PEFT's `modules_to_save` keeps the pretrained module and trains a copy. So what holds of an adapter
holds here too: disabled it is the base model, and plain PEFT loads what is saved.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from rankwright.core.export import WholeModulesExport
from rankwright.core.method import Method
from rankwright.core.slots import Layer, Slots
from rankwright.errors import MethodError
from rankwright.peft_layers.heads import name_of


@dataclass(frozen=True, kw_only=True)
class Whole(Method):
    """Modules trained in full, no low-rank factor anywhere; all fields keep their defaults."""

    target_modules: str | list[str] = DUMMY_TARGET_MODULES

    def __post_init__(self) -> None:
        """Refuse what would have no effect.

        Raises:
            MethodError: A field of the low-rank methods is set.
        """
        super().__post_init__()
        if any(self.plugged):
            raise MethodError(
                f"{self.name} has no low-rank factors, so a part has nothing to work on; plug it "
                "onto a method such as lora"
            )
        for field in dataclasses.fields(Whole):
            default = (
                field.default
                if field.default_factory is dataclasses.MISSING
                else field.default_factory()
            )
            value = getattr(self, field.name)
            if value != default:
                raise MethodError(
                    f"{type(self).__name__}.{field.name} = {value!r}: {self.name} has no low-rank "
                    "factors, so this would do nothing; leave it out"
                )

    def slots(self) -> Slots:
        """No part: PEFT alone does it."""
        return Slots(export=WholeModulesExport())

    @abstractmethod
    def modules(self, model: nn.Module) -> list[str]:
        """Full names of the modules of `model` to train, none inside another.

        A new head is trained anyway.
        """

    def named_whole(self, model: nn.Module) -> list[str]:
        """See `Method.named_whole`."""
        return self.modules(model)

    def peft_config(
        self,
        model: nn.Module,
        layer: Layer | None = None,
        missing_keys: Collection[str] | None = None,
    ) -> LoraConfig:
        """See `Method.peft_config`; word embeddings and head stay tied if both are trained.

        Raises:
            MethodError: A module to train is quantised, or there is none.
        """
        config = super().peft_config(model, layer, missing_keys)
        modules = config.modules_to_save or []
        if not modules:
            raise MethodError(
                f"{self.name} finds nothing to train in {type(model).__name__}, which has no head; "
                "expected a model with one, such as ...ForCausalLM or ...ForSequenceClassification;"
                " or use a method with factors, such as lora, and name a head in modules_to_save"
            )
        for name in modules:
            for parameter in model.get_submodule(name).parameters():
                if not parameter.is_floating_point():
                    raise MethodError(
                        f"{self.name} trains {name}, whose weight is quantised ({parameter.dtype}) "
                        "and has no gradient; load the model in full precision, or use a method "
                        "with factors, such as lora"
                    )
        tied = _tied_words(model)
        config.ensure_weight_tying = bool(tied) and tied <= {*modules}
        return config


def owners(model: nn.Module) -> list[str]:
    """Full names of the modules with parameters of their own, none inside another."""
    found: list[str] = []

    def visit(name: str, module: nn.Module) -> None:
        if next(module.parameters(recurse=False), None) is not None:
            found.append(name)
            return
        for child_name, child in module.named_children():
            visit(f"{name}.{child_name}" if name else child_name, child)

    visit("", model)
    return found


def word_head(model: nn.Module) -> str | None:
    """Full name of the layer that turns hidden states into words, where there is one."""
    return name_of(model, "get_output_embeddings")


def _tied_words(model: nn.Module) -> set[str]:
    """Names of the word embeddings and the head, if they share their weight."""
    names = name_of(model, "get_input_embeddings"), word_head(model)
    if None in names:
        return set()
    weights = {id(model.get_submodule(name).weight) for name in names if name}
    return {name for name in names if name} if len(weights) == 1 else set()
