"""The model that an export is of: checked, and its base without the adapter."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from rankwright.errors import MethodError
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.weight_change import check_adapted
from rankwright.peft_layers.weight_view import base_rows, dora_magnitude
from rankwright.training.export.check import LOGIT_TOLERANCE, ExportError, logits_of
from rankwright.training.export.probe import Probe, probe_inputs
from rankwright.training.export.routes import Routes, followed, recorded

# These write to the base weight when they start, and once more whenever the adapter is loaded.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class Source:
    """The model in hand, checked.

    Attributes:
        model: The `PeftModel`.
        base: What it adapts, adapted layers included.
        adapter: Name of its adapter.
        config: The adapter's configuration.
        layers: Adapted layers by their name in the base model.
        probe: Inputs for the check.
        logits: Of the model on the probe, float64.
        routes: The experts that the probe's tokens are routed to.
    """

    model: PeftModel
    base: nn.Module
    adapter: str
    config: LoraConfig
    layers: dict[str, LoraLayer]
    probe: dict[str, Tensor]
    logits: Tensor
    routes: Routes

    @classmethod
    def of(cls, model: PeftModel, probe: Probe | None) -> Source:
        """Check a model, and run it on the probe, or on random token ids.

        Raises:
            ExportError: It cannot be exported in any form.
        """
        if not isinstance(model, PeftModel):
            raise ExportError(
                f"expected a PeftModel, got a {type(model).__name__}; apply a method first, or "
                "take the model out of its distributed wrapper (.module)"
            )
        adapter, config = _only_adapter(model)
        base = model.get_base_model()
        try:
            layers = {n: m for n, m in adapted_layers(base).items() if adapter in m.scaling}
            for name, layer in layers.items():
                _check_layer(name, layer, adapter)
        except MethodError as error:
            raise ExportError(str(error)) from error
        inputs = probe_inputs(model, probe)
        with recorded(model) as routes:
            logits = logits_of(model, inputs)
        if not logits.isfinite().all():
            raise ExportError("the model gives logits that are NaN or infinite on the probe inputs")
        return cls(model, base, adapter, config, layers, inputs, logits, routes)

    def logits_of(self, model: nn.Module, *, routed: bool = True) -> Tensor:
        """Logits of another model on the probe.

        Args:
            model: The model.
            routed: Whether to route tokens to the same experts as in the model in hand.
        """
        with followed(model, self.routes if routed else []):
            return logits_of(model, self.probe)

    @property
    def is_plain(self) -> bool:
        """Whether the adapter is LoRA, without magnitudes."""
        return all(dora_magnitude(layer, self.adapter) is None for layer in self.layers.values())

    def rank(self) -> int:
        """The largest rank of a layer; 0 where whole modules are trained instead of factors."""
        return max((int(layer.r[self.adapter]) for layer in self.layers.values()), default=0)

    def tolerance(self, given: float | None) -> float:
        """What the user allows, or else what the dtype of the base asks for."""
        if given is not None:
            return given
        layer = next(iter(self.layers.values()), None)
        dtype = next(self.base.parameters()).dtype if layer is None else base_rows(layer).dtype
        return LOGIT_TOLERANCE.get(dtype, LOGIT_TOLERANCE[torch.bfloat16])

    def adapter_tensors(self) -> dict[str, Tensor]:
        """The adapter's tensors under their names in the file, heads included."""
        tensors: dict[str, Tensor] = get_peft_model_state_dict(
            self.model, adapter_name=self.adapter
        )
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ExportError(f"{key} is NaN or infinite; export an earlier checkpoint")
        return tensors

    def check_rank(self, rank: int | None) -> None:
        """Refuse a rank that is none, and to do without one where the change has full rank."""
        if rank is not None and (not isinstance(rank, int) or rank < 1):
            raise ExportError(f"rank = {rank!r}: expected an integer of at least 1")
        if not self.layers:
            raise ExportError(
                "the adapter holds whole modules and no factors, so there is no LoRA of it; export "
                "it as adapter or merged"
            )
        if rank is None and not self.is_plain:
            raise ExportError(
                "the change that a DoRA adapter makes has full rank in general: state the rank of "
                f"the LoRA, {2 * self.rank()} say, or export the adapter or the merged model"
            )

    def check_base(self) -> None:
        """Refuse a base that is not the pretrained one: the adapter file would not tell."""
        init = str(self.config.init_lora_weights)
        if init.startswith(_INITS_THAT_CHANGE_THE_BASE):
            raise ExportError(
                f"init_lora_weights={init!r} has changed the base weights, so the adapter does not "
                "fit the pretrained model; export the merged model"
            )
        changed = [n for n, p in unloaded(self).named_parameters() if p.requires_grad]
        if changed:
            raise ExportError(
                f"{changed[0]} and {len(changed) - 1} more parameters of the base model are being "
                "trained and no adapter file holds them; name their modules in modules_to_save, "
                "or export the merged model"
            )


def _only_adapter(model: PeftModel) -> tuple[str, LoraConfig]:
    if len(model.peft_config) != 1:
        raise ExportError(
            f"the model carries the adapters {', '.join(model.peft_config)}; an export is of one: "
            "model.delete_adapter(...) removes the others"
        )
    ((adapter, config),) = model.peft_config.items()
    if not isinstance(config, LoraConfig):
        raise ExportError(
            f"adapter {adapter!r} is of type {config.peft_type}; only LoRA and DoRA adapters can "
            "be exported"
        )
    for option, value in (("bias", "none"), ("trainable_token_indices", None)):
        if getattr(config, option) != value:
            raise ExportError(
                f"adapter {adapter!r} has {option}={getattr(config, option)!r}, which no export "
                "here carries; use PEFT's own save_pretrained"
            )
    return adapter, config


def _check_layer(name: str, layer: LoraLayer, adapter: str) -> None:
    if layer.disable_adapters or adapter not in layer.active_adapters:
        raise ExportError(f"adapter {adapter!r} is switched off in {name}; enable it first")
    try:
        check_adapted(layer, adapter)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{name} cannot be exported: {error}") from error


def unloaded(source: Source, *, heads: bool = False) -> nn.Module:
    """The base model without adapter, as a new structure over the same tensors.

    Args:
        source: The model in hand.
        heads: Take the trained `modules_to_save`, in the dtype of the originals, instead of those.
    """
    tensors = itertools.chain(source.base.parameters(), source.base.buffers())
    base = copy.deepcopy(source.base, {id(tensor): tensor for tensor in tensors})
    for name, module in reversed(list(base.named_modules())):  # children before parents
        if isinstance(module, LoraLayer):
            base.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            head = module.modules_to_save[source.adapter] if heads else None
            original = module.original_module
            base.set_submodule(name, original if head is None else _cast_like(head, original))
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base


def _cast_like(head: nn.Module, original: nn.Module) -> nn.Module:
    """A copy of a trained head in the dtypes of the module that it replaces."""
    head = copy.deepcopy(head)
    for parameter, model in zip(head.parameters(), original.parameters(), strict=True):
        parameter.data = parameter.data.to(model.dtype)
    return head
