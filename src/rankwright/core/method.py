"""`Method`: one paper as a frozen dataclass of hyperparameters, and the parts it is made of."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig, PeftModel
from torch import nn

from rankwright.core.fields import check_field, check_types
from rankwright.core.part_fields import Origin, taken_fields
from rankwright.core.part_registry import part_name
from rankwright.core.plugged import PluggedParts
from rankwright.core.search_space import LOW_RANK, SearchSpace
from rankwright.core.slots import Layer, Slots
from rankwright.kernels.fused_linear import fuse
from rankwright.peft_layers.experts import check_experts, expert_notice, left_out_notice
from rankwright.peft_layers.heads import matching, missing_parameters, whole_modules, whole_notice
from rankwright.peft_layers.injection import (
    ADAPTER,
    check_attention,
    check_ranks,
    inject,
    refuse_adapted,
    restored_on_error,
    settle_patterns,
    task_type,
)
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.quantised import keep_trainable
from rankwright.peft_layers.rank_patterns import compiled

logger = logging.getLogger(__name__)
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Base class of methods, with the hyperparameters that all of them have, under PEFT's names.

    Attributes:
        r: Rank of the factors A (r, in) and B (out, r).
        lora_alpha: Numerator of the scaling s = lora_alpha / r.
        lora_dropout: Dropout probability on the input of the low-rank path.
        target_modules: Module names or a regular expression, as in PEFT; "all-linear" for every
            linear layer except the output head.
        rank_pattern: Ranks that differ from `r`, by module name or regular expression.
        alpha_pattern: Values that differ from `lora_alpha`, likewise.
        use_rslora: Use the scaling s = lora_alpha / sqrt(r) (arXiv 2312.03732).
        modules_to_save: Modules trained in full and saved with the adapter, by the ends of their
            names. New heads (classification, question answering and the like) always are, and so
            are modules that the model's file lacks (`peft_layers/heads.py`).
        plugged: Plugged parts; see `with_parts`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str]
    cost: ClassVar[str]
    space: ClassVar[SearchSpace] = LOW_RANK
    """Search space of `rankwright compare --tune`: learning rates, and two or three fields."""
    origins: ClassVar[dict[str, Origin]] = {}
    """Fields that come from parts, by name; see `part_fields.from_part`."""

    r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    target_modules: str | list[str] = ALL_LINEAR
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    modules_to_save: list[str] | None = None
    plugged: PluggedParts = field(default_factory=PluggedParts)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.origins = {**cls.origins, **taken_fields(cls)}

    @abstractmethod
    def slots(self) -> Slots:
        """Return the method's own parts, without plugged ones."""

    def with_parts(self, **parts: Any) -> Self:
        """Return this method with more parts plugged in.

        Args:
            parts: Parts by slot: a `layer`, an `init` or an `optimizer` if the method leaves that
                slot open; a `penalty` or a list of them, which add up; a `procedure` or a list of
                them, which precede the method's own.

        Raises:
            MethodError: The parts do not work together.
        """
        method = dataclasses.replace(self, plugged=self.plugged.plug(**parts))
        method.made_of()
        return method

    def made_of(self) -> Slots:
        """Return the slots with the method's own parts and the plugged ones.

        Raises:
            MethodError: The parts do not work together.
        """
        return self._filled

    @cached_property
    def _filled(self) -> Slots:
        return self.plugged.into(self.slots(), self.name)

    @property
    def injected_rank(self) -> int:
        """Rank of the factors that PEFT injects, unless `rank_pattern` says otherwise."""
        return self.r

    @property
    def label(self) -> str:
        """The method's name and those of plugged parts, such as "lora+olora+flat"."""
        names = (part_name(part).rpartition(":")[2] for _, part in self.plugged)
        return "+".join((self.name, *names))

    def hyperparameters(self) -> dict[str, Any]:
        """Return the fields by name, without the plugged parts."""
        names = (field.name for field in dataclasses.fields(self) if field.name != "plugged")
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        check_types(self)
        check_field(self, "r", self.r >= 1, "an integer of at least 1")
        check_field(self, "lora_alpha", self.lora_alpha > 0, "a number above 0")
        check_field(self, "lora_dropout", 0 <= self.lora_dropout < 1, "a probability in [0, 1)")
        for name, rank in self.rank_pattern.items():
            expected = "an integer of at least 1"
            check_field(self, f"rank_pattern[{name!r}]", rank >= 1, expected, rank)
        for name, alpha in self.alpha_pattern.items():
            check_field(self, f"alpha_pattern[{name!r}]", alpha > 0, "a number above 0", alpha)
        for kind in ("rank_pattern", "alpha_pattern"):
            for key in getattr(self, kind):
                compiled(kind, key)
        self.slots()  # each part checks its own fields

    def apply(
        self, model: nn.Module, *, seed: int = 0, missing_keys: Iterable[str] | None = None
    ) -> PeftModel:
        """Freeze `model` and put this method's adapter on it.

        Args:
            model: A transformers model, or any module that PEFT can adapt; modified in place.
            seed: Seed of the factors. The global random state is restored.
            missing_keys: Names of the parameters that the model's file lacks, as
                `from_pretrained(..., output_loading_info=True)` reports them; [] for none. By
                default they are found by the marks that transformers leaves on loaded parameters.
                A copy of a loaded model has no marks: poolers and modules outside the pretrained
                body then count as missing. Modules with missing parameters are trained in full
                and saved with the adapter, as new heads always are.

        Returns:
            The adapted model, whose logits are the base model's.

        Raises:
            MethodError: The model already carries an adapter, a target or pattern matches nothing,
                a rank is larger than a layer, a 4-bit weight cannot be trained any more, a weight
                of the pretrained body is in no file, or a part refuses a layer. The model is
                restored.
        """
        refuse_adapted(model, self.name)
        slots = self.made_of()
        absent = missing_parameters(model, missing_keys)
        keep_trainable(model)
        with restored_on_error(model), torch.random.fork_rng():
            torch.manual_seed(seed)
            config = self.peft_config(model, slots.layer, absent)
            peft_model = inject(model, config, self.name, self.target_modules)
            self._check_layers(peft_model, slots)
            slots.layer.install(peft_model, ADAPTER)
            if slots.init is not None:  # last: it may write to what the layer part put in place
                slots.init.initialise(peft_model, ADAPTER)
        fuse(peft_model)
        if missing_keys is None:  # callers who pass them print the notices themselves
            for notice in self.notices(peft_model, absent or ()):
                logger.warning(notice)
        return peft_model

    def _check_layers(self, model: PeftModel, slots: Slots) -> None:
        """Refuse layers that PEFT has adapted and this method cannot train."""
        layers = adapted_layers(model)
        check_attention(layers)
        unable = [part_name(part) for part in slots.parts() if not part.experts]
        check_experts(self.label, unable, layers, model.get_base_model())
        settle_patterns(model, layers, self.rank_pattern, self.alpha_pattern)
        check_ranks(layers)

    def notices(self, model: PeftModel, missing_keys: Collection[str]) -> list[str]:
        """Return messages about an adapted model for the user to read before training.

        Args:
            model: The model that `apply` returned.
            missing_keys: Parameters that are in no file.
        """
        whole = [whole_notice(model, missing_keys)] if missing_keys else []
        adapted = expert_notice(model, ADAPTER)
        if adapted is None and self.target_modules == ALL_LINEAR:
            adapted = left_out_notice(model)
        return [*whole, *([adapted] if adapted else [])]

    def named_whole(self, model: nn.Module) -> list[str]:
        """Return full names of the modules that the fields select to be trained in full.

        Raises:
            MethodError: A name matches no module.
        """
        return matching(model, self.modules_to_save or ())

    def peft_config(
        self,
        model: nn.Module,
        layer: Layer | None = None,
        missing_keys: Collection[str] | None = None,
    ) -> LoraConfig:
        """Return the PEFT configuration under which the adapter is built and saved.

        Args:
            model: The base model.
            layer: The layer part; by default the method's.
            missing_keys: Parameters that are in no file; None if unknown.

        Raises:
            MethodError: A name matches no module, or a weight of the body is in no file.
        """
        return LoraConfig(
            task_type=task_type(model),
            r=self.injected_rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.target_modules,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            use_rslora=self.use_rslora,
            # PEFT trains most heads by itself, but puts factors on some of them first
            modules_to_save=whole_modules(model, self.named_whole(model), missing_keys) or None,
            **(layer or self.made_of().layer).peft_options(),
        )
