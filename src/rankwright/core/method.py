"""`Method`: one paper as one frozen dataclass that says which parts it is made of."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from rankwright.core.fields import check_field, check_types
from rankwright.core.part_fields import taken_fields
from rankwright.core.part_registry import part_name
from rankwright.core.plugged import PluggedParts
from rankwright.core.search_space import LOW_RANK, SearchSpace
from rankwright.core.slots import (
    Layer,
    Origin,
    Slots,
)
from rankwright.errors import MethodError
from rankwright.kernels.blocks import release
from rankwright.kernels.fused_linear import fuse
from rankwright.peft_layers.experts import advice, check_experts, expert_notice, left_out_notice
from rankwright.peft_layers.heads import matching, missing_parameters, whole_modules, whole_notice
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.quantised import keep_trainable
from rankwright.peft_layers.rank_patterns import (
    check_patterns,
    compiled,
    resolve_patterns,
    target_name,
)

logger = logging.getLogger(__name__)
ADAPTER = "default"
ALL_LINEAR = "all-linear"

_TASK_TYPES = {
    "ForSequenceClassification": TaskType.SEQ_CLS,
    "ForTokenClassification": TaskType.TOKEN_CLS,
    "ForQuestionAnswering": TaskType.QUESTION_ANS,
    "ForCausalLM": TaskType.CAUSAL_LM,
    "ForConditionalGeneration": TaskType.SEQ_2_SEQ_LM,
}


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Hyperparameters that every method of the family has, under PEFT's names.

    Attributes:
        r: Rank of the factors A (r, in) and B (out, r).
        lora_alpha: Numerator of the scaling s = lora_alpha / r.
        lora_dropout: Dropout probability on the input of the low-rank path.
        target_modules: Module names or a regular expression, as PEFT takes them; "all-linear" is
            every linear layer but the output head.
        rank_pattern: Module name or regular expression -> rank, where it differs from `r`.
        alpha_pattern: The same for `lora_alpha`.
        use_rslora: s = lora_alpha / sqrt(r) instead (arXiv 2312.03732).
        modules_to_save: Modules trained in full and saved beside the adapter, by the ends of their
            names. New heads (classification, question answering and the like) always are, and so
            are modules that the model's file lacks (`peft_layers/heads.py`).
        plugged: What was plugged in; see `with_parts`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str]
    cost: ClassVar[str]
    space: ClassVar[SearchSpace] = LOW_RANK
    """What `rankwright compare --tune` searches: learning rates, and two or three fields."""
    origins: ClassVar[dict[str, Origin]] = {}
    """Fields that it takes from its parts, by name; see `part_fields.from_part`."""

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
        """The parts this method is made of by itself."""

    def with_parts(self, **parts: Any) -> Self:
        """This method with more parts plugged in.

        Args:
            parts: By slot: a `layer`, an `init`, an `optimizer` where the method leaves the slot
                open; a `penalty` or a list of them, which add up; a `procedure` or a list of them,
                which stand before the method's own.

        Raises:
            MethodError: The parts do not go together.
        """
        method = dataclasses.replace(self, plugged=self.plugged.plug(**parts))
        method.made_of()
        return method

    def made_of(self) -> Slots:
        """All slots, with the plugged parts in them.

        Raises:
            MethodError: The parts do not go together.
        """
        return self._filled

    @cached_property
    def _filled(self) -> Slots:
        return self.plugged.into(self.slots(), self.name)

    @property
    def label(self) -> str:
        """Its name, and those of the plugged parts: "lora+olora+flat"."""
        names = (part_name(part).rpartition(":")[2] for _, part in self.plugged)
        return "+".join((self.name, *names))

    def hyperparameters(self) -> dict[str, Any]:
        """Its fields by name, without the plugged parts."""
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
            model: A transformers model (any module that PEFT can adapt); changed in place.
            seed: Seed of the factors. The global random state is left as it was.
            missing_keys: Names of the parameters that the model's file does not have, as
                `from_pretrained(..., output_loading_info=True)` reports them; [] if it has all.
                None: told by the marks that transformers leaves on loaded parameters. A copy of a
                loaded model has no marks; then poolers and modules outside the pretrained body
                count as missing. Modules with missing parameters are trained in full and saved
                with the adapter, as new heads always are.

        Returns:
            The adapted model. Its logits are the base model's.

        Raises:
            MethodError: The model already carries an adapter, a target or pattern matches nothing,
                a rank is larger than a layer, a 4-bit weight cannot be trained any more, a weight
                of the pretrained body is in no file, or a part refuses a layer. The model is as
                it was.
        """
        if isinstance(model, PeftModel) or any(isinstance(m, LoraLayer) for m in model.modules()):
            raise MethodError(
                f"{type(model).__name__} already carries an adapter; apply {self.name} to the base "
                "model (PeftModel.unload() gives it back)"
            )
        slots = self.made_of()
        absent = missing_parameters(model, missing_keys)
        keep_trainable(model)
        with _taken_off_again(model), torch.random.fork_rng(), _quiet_injection():
            torch.manual_seed(seed)
            peft_model = self._inject(model, slots.layer, absent)
            layers = adapted_layers(peft_model)
            _check_attention(layers)
            unable = [part_name(part) for part in slots.parts() if not part.experts]
            check_experts(self.label, unable, layers, model)
            self._resolve_patterns(peft_model, layers)
            self._check_ranks(layers)
            slots.layer.install(peft_model, ADAPTER)
            if slots.init is not None:  # last: it may write to what the layer part put in place
                slots.init.initialise(peft_model, ADAPTER)
        fuse(peft_model)
        if missing_keys is None:  # a caller who passes them prints the notices itself
            for notice in self.notices(peft_model, absent or ()):
                logger.warning(notice)
        return peft_model

    def notices(self, model: PeftModel, missing_keys: Collection[str]) -> list[str]:
        """Lines about an adapted model that the user should read before training.

        Args:
            model: The model that `apply` returned.
            missing_keys: Parameters that no file has.
        """
        whole = [whole_notice(model, missing_keys)] if missing_keys else []
        adapted = expert_notice(model, ADAPTER)
        if adapted is None and self.target_modules == ALL_LINEAR:
            adapted = left_out_notice(model)
        return [*whole, *([adapted] if adapted else [])]

    def named_whole(self, model: nn.Module) -> list[str]:
        """Full names of the modules of `model` that the fields select to be trained in full.

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
        """The PEFT configuration under which the adapter is built and saved.

        Args:
            model: The base model.
            layer: The layer part; the method's own if None.
            missing_keys: Parameters that no file has; None if unknown.

        Raises:
            MethodError: A name matches no module, or a weight of the body is in no file.
        """
        return LoraConfig(
            task_type=_task_type(model),
            r=self.r,
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

    def _inject(self, model: nn.Module, layer: Layer, absent: Collection[str] | None) -> PeftModel:
        linears = sorted(
            {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
        )
        try:
            config = self.peft_config(model, layer, absent)
            adapted = get_peft_model(model, config, adapter_name=ADAPTER)
        except MethodError:
            raise
        except (TypeError, ValueError) as error:
            if ParamWrapper.__name__ in str(error):  # PEFT refuses DoRA and dropout there
                raise MethodError(
                    f"{self.name} does not work on the experts of {type(model).__name__}, which "
                    f"are parameters and not linear layers ({error}); {advice(model)}"
                ) from error
            raise MethodError(
                f"{self.name} cannot be applied to {type(model).__name__} with target_modules="
                f"{self.target_modules!r}: {error} Linear modules of this model end in: "
                f"{', '.join(linears)}."
            ) from error
        if isinstance(config.target_modules, set):  # PEFT lists heads too; they are not targets
            config.target_modules -= {*(config.modules_to_save or ())}
        return adapted

    def _resolve_patterns(self, model: PeftModel, layers: dict[str, LoraLayer]) -> None:
        """Check the user's patterns and replace them by one entry for each module."""
        targets = [target_name(name, layer) for name, layer in layers.items()]
        check_patterns("rank_pattern", [*self.rank_pattern], targets)
        check_patterns("alpha_pattern", [*self.alpha_pattern], targets)
        resolve_patterns(model.peft_config[ADAPTER], ADAPTER, layers)

    def _check_ranks(self, layers: dict[str, LoraLayer]) -> None:
        for name, layer in layers.items():
            rows, columns = _matrix_shape(layer)
            largest = min(rows, columns)
            if layer.r[ADAPTER] > largest:
                raise MethodError(
                    f"rank {layer.r[ADAPTER]} is larger than the layer {target_name(name, layer)} "
                    f"({rows} x {columns}); choose r <= {largest}, or give "
                    "this layer its own rank with rank_pattern"
                )


def _task_type(model: nn.Module) -> TaskType | None:
    """PEFT's name of the task; None if its wrapper would pass token ids to a model without them.

    Speech and images have classes by the same names.
    """
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        return None
    name = type(model).__name__
    return next((kind for suffix, kind in _TASK_TYPES.items() if suffix in name), None)


@contextlib.contextmanager
def _quiet_injection() -> Iterator[None]:
    """Suppress PEFT's warnings about settings that are checked here, or that it corrects itself."""
    with warnings.catch_warnings():
        # a pattern that matches nothing is an error here (check_patterns)
        warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern.*")
        # PEFT corrects it for a Conv1D, and says so at every layer
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        yield


def _check_attention(layers: dict[str, LoraLayer]) -> None:
    for name, layer in layers.items():
        if isinstance(layer, MultiheadAttention):
            raise MethodError(
                f"{name} is a torch.nn.MultiheadAttention, for which PEFT adds the update to the "
                "base weight before every forward and takes it off afterwards: the base drifts by "
                "the rounding, 2.5 % after 200 steps in bfloat16; leave it out of target_modules"
            )


def _matrix_shape(layer: LoraLayer) -> tuple[int, int]:
    """(out_features, in_features); a convolution's kernels are the rows of its matrix."""
    base = layer.get_base_layer()
    if isinstance(base, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return base.out_channels, base.weight[0].numel()
    return layer.out_features, layer.in_features


@contextlib.contextmanager
def _taken_off_again(model: nn.Module) -> Iterator[None]:
    """Give the model back as it was if its adapter cannot be put on, so that another can be."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    try:
        yield
    except Exception:
        release(model)
        model.__dict__.pop("peft_config", None)  # PEFT notes it there
        _put_back_bases(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        raise


def _put_back_bases(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, MultiheadAttention):  # PEFT has taken its parameters apart
            base = child.unload_and_optionally_merge_module(
                merge=False, safe_merge=False, adapter_names=None
            )
            setattr(module, name, base)
        elif isinstance(child, LoraLayer):
            setattr(module, name, child.get_base_layer())
        elif isinstance(child, ModulesToSaveWrapper):
            setattr(module, name, child.original_module)
        else:
            _put_back_bases(child)
