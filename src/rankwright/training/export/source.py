"""The model in hand: checked, run on the probe, and its base without the adapter."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from rankwright.core.export import (
    FORM_NAMES,
    DoraExport,
    Export,
    Form,
    FormName,
    WholeModulesExport,
)
from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.weight_change import check_adapted
from rankwright.peft_layers.weight_view import base_rows, dora_magnitude
from rankwright.training.export.comparison import LOGIT_TOLERANCE, compute_logits
from rankwright.training.export.errors import ExportError
from rankwright.training.export.expert_routes import Routes, follow_routes, record_routes
from rankwright.training.export.probe import Probe, probe_inputs
from rankwright.training.export.report import ExportReport, WeightErrors

# These write to the base weight when they start, and again whenever the adapter is loaded.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class Source:
    """The model in hand, checked.

    Attributes:
        model: The `PeftModel`.
        base: The base model, adapted layers included.
        adapter: Name of the adapter.
        config: The adapter's PEFT configuration.
        layers: Adapted layers, by name in the base model.
        export: The slot of the method that trained the adapter.
        probe: Inputs for the check.
        logits: Logits of the model on the probe, float64.
        routes: Experts to which the probe's tokens are routed.
    """

    model: PeftModel
    base: nn.Module
    adapter: str
    config: PeftConfig
    layers: dict[str, LoraLayer]
    export: Export
    probe: dict[str, Tensor]
    logits: Tensor
    routes: Routes

    @classmethod
    def of(cls, model: PeftModel, probe: Probe | None, method: Method | None = None) -> Source:
        """Check a model, and run it on the probe, or on random token ids.

        Raises:
            ExportError: It cannot be exported in any form.
        """
        if not isinstance(model, PeftModel):
            raise ExportError(
                f"expected a PeftModel, got a {type(model).__name__}; apply a method first, or "
                "take the model out of its distributed wrapper (.module)"
            )
        export = None if method is None else method.made_of().export
        adapter, config = _only_adapter(model, (export or Export()).peft_type)
        base = model.get_base_model()
        layers = _layers_of(base, adapter, config)
        export = export or _export_of(layers, adapter)
        for name, layer in layers.items():
            _check_layer(name, layer, adapter, export)
        inputs = probe_inputs(model, probe)
        with record_routes(model) as routes:
            logits = compute_logits(model, inputs)
        if not logits.isfinite().all():
            raise ExportError("the model gives logits that are NaN or infinite on the probe inputs")
        return cls(model, base, adapter, config, layers, export, inputs, logits, routes)

    def form(self, name: FormName) -> Form:
        """Return a form of the adapter.

        Raises:
            ExportError: The method refuses it.
        """
        form = self.export.form(name)
        if form.accuracy == "refused":
            raise ExportError(refusal(self.export, name))
        return form

    def logits_of(self, model: nn.Module, *, routed: bool = True) -> Tensor:
        """Return the logits of another model on the probe.

        Args:
            model: The model.
            routed: Whether to route tokens to the same experts as in the model in hand.
        """
        with follow_routes(model, self.routes if routed else []):
            return compute_logits(model, self.probe)

    @property
    def changes_weights(self) -> bool:
        """Whether the adapter is a change of the weight of each adapted layer."""
        return self.export.peft_type == Export.peft_type

    @property
    def is_plain(self) -> bool:
        """Whether the adapter is LoRA, without magnitudes."""
        return all(dora_magnitude(layer, self.adapter) is None for layer in self.layers.values())

    def rank(self) -> int:
        """Return the largest rank of a layer; 0 if only whole modules are trained."""
        return max((int(layer.r[self.adapter]) for layer in self.layers.values()), default=0)

    def tolerance(self, given: float | None) -> float:
        """Return the user's tolerance, or the default for the dtype of the base."""
        if given is not None:
            return given
        layer = next(iter(self.layers.values()), None)
        dtype = next(self.base.parameters()).dtype if layer is None else base_rows(layer).dtype
        return LOGIT_TOLERANCE.get(dtype, LOGIT_TOLERANCE[torch.bfloat16])

    def adapter_tensors(self) -> dict[str, Tensor]:
        """Return the adapter's tensors under their names in the file, heads included.

        Raises:
            ExportError: A value is NaN or infinite.
        """
        tensors: dict[str, Tensor] = get_peft_model_state_dict(
            self.model, adapter_name=self.adapter
        )
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ExportError(f"{key} is NaN or infinite; export an earlier checkpoint")
        return tensors

    def report(
        self,
        kind: FormName,
        path: Path,
        rank: int | None,
        errors: WeightErrors,
        difference: float,
        form: Form,
    ) -> ExportReport:
        """Return the report on an export that lies at `path`."""
        return ExportReport(
            kind=kind,
            path=path,
            rank=rank,
            relative_error=errors.total,
            layer_errors=errors.by_layer,
            logit_difference=difference,
            largest_logit=float(self.logits.abs().max()),
            size_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
            form=form,
        )

    def check_base(self) -> None:
        """Refuse a base that is not the pretrained one, which no adapter file would say.

        Raises:
            ExportError: An init has changed the base, or some of its parameters are trained.
        """
        init = str(getattr(self.config, "init_lora_weights", True))
        if init.startswith(_INITS_THAT_CHANGE_THE_BASE):
            raise ExportError(
                f"init_lora_weights={init!r} has changed the base weights, so the adapter does not "
                "fit the pretrained model; export the merged model"
            )
        changed = [n for n, p in base_without_adapter(self).named_parameters() if p.requires_grad]
        if changed:
            raise ExportError(
                f"{changed[0]} and {len(changed) - 1} more parameters of the base model are being "
                "trained and no adapter file holds them; name their modules in modules_to_save, "
                "or export the merged model"
            )


def refusal(export: Export, name: FormName) -> str:
    """Return the message for a form that a method refuses."""
    others = [other for other in FORM_NAMES if export.form(other).accuracy != "refused"]
    instead = f"; export it as {' or '.join(others)}" if others else ""
    return f"no export as {name}: {export.form(name).reason}{instead}"


def _layers_of(base: nn.Module, adapter: str, config: PeftConfig) -> dict[str, LoraLayer]:
    """Return the adapted layers by name; none for an adapter that has no LoRA layers."""
    if not isinstance(config, LoraConfig):
        return {n: m for n, m in base.named_modules() if isinstance(m, LoraLayer)}
    try:
        return {n: m for n, m in adapted_layers(base).items() if adapter in m.scaling}
    except MethodError as error:
        raise ExportError(str(error)) from error


def _export_of(layers: Mapping[str, LoraLayer], adapter: str) -> Export:
    """Recognise what a model of an unknown method carries."""
    if not layers:
        return WholeModulesExport()
    if any(dora_magnitude(layer, adapter) is not None for layer in layers.values()):
        return DoraExport()
    return Export()


def _only_adapter(model: PeftModel, peft_type: str) -> tuple[str, PeftConfig]:
    """Return name and configuration of the only adapter, which is of the given type."""
    if len(model.peft_config) != 1:
        raise ExportError(
            f"the model carries the adapters {', '.join(model.peft_config)}; an export is of one: "
            "model.delete_adapter(...) removes the others"
        )
    ((adapter, config),) = model.peft_config.items()
    if config.peft_type != peft_type:
        raise ExportError(
            f"adapter {adapter!r} is of type {config.peft_type}, expected {peft_type}; adapters "
            "other than LoRA and DoRA need method=, the method that trained them"
        )
    for option, value in (("bias", "none"), ("trainable_token_indices", None)):
        if getattr(config, option, value) != value:
            raise ExportError(
                f"adapter {adapter!r} has {option}={getattr(config, option)!r}, which no export "
                "here carries; use PEFT's own save_pretrained"
            )
    return adapter, config


def _check_layer(name: str, layer: LoraLayer, adapter: str, export: Export) -> None:
    if layer.disable_adapters or adapter not in layer.active_adapters:
        raise ExportError(f"adapter {adapter!r} is switched off in {name}; enable it first")
    if export.peft_type != Export.peft_type:  # the adapter is no change of the weight
        return
    try:
        check_adapted(layer, adapter)
    except (TypeError, ValueError, MethodError) as error:
        raise ExportError(f"{name} cannot be exported: {error}") from error


def base_without_adapter(source: Source, *, heads: bool = False) -> nn.Module:
    """Return the base model without adapter, as a new structure over the same tensors.

    Args:
        source: The model in hand.
        heads: Replace modules in `modules_to_save` by the trained ones, in the dtype of the
            originals.
    """
    tensors = itertools.chain(source.base.parameters(), source.base.buffers())
    base = copy.deepcopy(source.base, {id(tensor): tensor for tensor in tensors})
    for name, module in reversed(list(base.named_modules())):  # children before parents
        if isinstance(module, BaseTunerLayer):
            base.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            head = module.modules_to_save[source.adapter] if heads else None
            original = module.original_module
            base.set_submodule(name, original if head is None else _cast_like(head, original))
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base


def _cast_like(head: nn.Module, original: nn.Module) -> nn.Module:
    """Copy a trained head in the dtypes of the module that it replaces."""
    head = copy.deepcopy(head)
    for parameter, model in zip(head.parameters(), original.parameters(), strict=True):
        parameter.data = parameter.data.to(model.dtype)
    return head
