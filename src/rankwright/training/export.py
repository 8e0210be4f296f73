"""What leaves training: the adapter as trained, a plain LoRA of a stated rank, the merged model.

Every export is written to a temporary folder beside its target, loaded again by plain PEFT or
transformers, compared with the model in hand tensor by tensor and on probe inputs, and only then
renamed to its name. The model in hand keeps every bit; its base weights are shared, not copied.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rankwright.core.effective import check_adapted, factor_tensors, weight_change
from rankwright.core.errors import MethodError
from rankwright.core.linalg import compute_dtype, truncated_product, truncated_svd
from rankwright.core.matrix import as_weight, base_rows, dora_magnitude, low_rank_factors
from rankwright.core.run import adapted_layers
from rankwright.training.export_check import (
    LOGIT_TOLERANCE,
    ExportError,
    Probe,
    check_same,
    logit_difference,
    logits_of,
    no_progress_bars,
    probe_inputs,
    staged,
)

__all__ = [
    "LOGIT_TOLERANCE",
    "ExportError",
    "ExportReport",
    "Probe",
    "export_adapter",
    "export_lora",
    "export_merged",
]

PREFIX = "base_model.model."  # what PEFT puts before a module's name in an adapter file

# These write to the base weight when they start, and once more whenever the adapter is loaded.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the model in hand.

    Attributes:
        kind: "adapter", "lora" or "merged".
        path: The folder.
        rank: Largest rank in the adapter file; None for a merged model.
        relative_error: `|dW - dW_written|_F / |dW|_F` over all adapted layers together, `dW` being
            the change that the adapter makes. For a merged model it is what rounding to the base
            dtype lost.
        layer_errors: The same for each adapted layer, by name.
        logit_difference: Largest absolute difference of a logit on the probe, after loading.
        largest_logit: Largest absolute logit on the probe, to judge the difference by.
        size_bytes: Size of all files.
    """

    kind: str
    path: Path
    rank: int | None
    relative_error: float
    layer_errors: Mapping[str, float]
    logit_difference: float
    largest_logit: float
    size_bytes: int

    def rows(self) -> list[tuple[str, str]]:
        """(what, figure) for a table."""
        rows = [("export", self.kind), ("written to", str(self.path))]
        if self.rank is not None:
            rows.append(("rank", str(self.rank)))
        rows.append(("relative error of the change", f"{self.relative_error:.2e}"))
        if self.relative_error:
            worst = max(self.layer_errors, key=lambda name: self.layer_errors[name])
            rows.append(("worst layer", f"{self.layer_errors[worst]:.2e}  {worst}"))
        return [
            *rows,
            ("largest logit difference", f"{self.logit_difference:.2e}"),
            ("largest logit", f"{self.largest_logit:.2e}"),
            ("size", f"{self.size_bytes:,} bytes"),
        ]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(what) for what, _ in rows)
        return "\n".join(f"{what:<{width}}  {figure}" for what, figure in rows)


def export_adapter(
    model: PeftModel,
    path: str | os.PathLike[str],
    *,
    probe: Probe | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write the adapter as it stands, as PEFT does.

    Args:
        model: A model with one LoRA or DoRA adapter, unmerged.
        path: The folder to write; its parents are made.
        probe: A batch of inputs for the check; random token ids by default.
        tolerance: Largest logit difference that passes, relative to the largest logit; by default
            `LOGIT_TOLERANCE` of the base dtype.
        overwrite: Replace an export that is there.

    Returns:
        What was written and measured.

    Raises:
        ExportError: The model cannot be exported so, something is in the way at `path`, a tensor
            is NaN or infinite, or what plain PEFT loads is not the model in hand.
    """
    source = _Source.of(model, probe)
    source.check_base()
    with staged(path, overwrite) as folder, _quiet_embeddings():
        tensors = source.adapter_tensors()
        model.save_pretrained(str(folder), selected_adapters=[source.adapter])
        difference = _check_adapter(source, folder, tensors, source.tolerance(tolerance))
    errors = _Errors.none(source.layers)
    return _report(source, "adapter", Path(path), source.rank(), errors, difference)


def export_lora(
    model: PeftModel,
    path: str | os.PathLike[str],
    rank: int | None = None,
    *,
    probe: Probe | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write a plain LoRA adapter of rank `rank` at most.

    A LoRA adapter none of whose ranks is larger is written as it is, bit for bit. Otherwise every
    layer gets the best approximation of its change `dW` of that rank (Eckart-Young): of a LoRA
    through its factors, of a DoRA, magnitude included, from the dense `(g - 1) W + g s B A`, which
    has full rank in general. Scaling is 1 then, and goes into B where factors are kept.

    Args:
        model: See `export_adapter`.
        path: See `export_adapter`.
        rank: The rank; a layer too small for it gets its full rank. None keeps the ranks of a LoRA
            adapter; a DoRA adapter needs a number.
        probe: See `export_adapter`.
        tolerance: See `export_adapter`; holds where nothing is truncated. A truncation is judged
            by the errors in the report.
        overwrite: See `export_adapter`.

    Returns:
        What was written and measured; the errors are of the factors as they were written.

    Raises:
        ExportError: See `export_adapter`; or the rank is no positive integer, or is missing.
    """
    source = _Source.of(model, probe)
    source.check_base()
    source.check_rank(rank)
    exact = source.is_plain and (rank is None or source.rank() <= rank)
    with staged(path, overwrite) as folder, _quiet_embeddings():
        written = _as_it_is(source) if exact else _truncated(source, cast(int, rank))
        written.config.save_pretrained(str(folder))
        save_file(
            {key: tensor.cpu().clone() for key, tensor in written.tensors.items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        allowed = source.tolerance(tolerance) if exact else math.inf
        difference = _check_adapter(source, folder, written.tensors, allowed)
    return _report(source, "lora", Path(path), written.rank, written.errors, difference)


def export_merged(
    model: PeftModel,
    path: str | os.PathLike[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    probe: Probe | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write the whole model with the adapter merged into its weights, in safetensors.

    `W + dW` is formed in float64 and rounded once to the dtype of `W`. Word embeddings that are
    tied and no longer equal are untied in the written config.

    Args:
        model: A transformers model with one LoRA or DoRA adapter, unmerged, not quantised.
        path: See `export_adapter`.
        tokenizer: Written beside the model.
        probe: See `export_adapter`.
        tolerance: See `export_adapter`.
        overwrite: See `export_adapter`.

    Returns:
        What was written and measured.

    Raises:
        ExportError: See `export_adapter`; or the base is quantised or no transformers model, a
            merged weight is NaN or infinite, or weights other than word embeddings are tied.
    """
    source = _Source.of(model, probe)
    if not isinstance(source.base, PreTrainedModel):
        raise ExportError(
            f"cannot write a merged {type(source.base).__name__}: it is not a transformers model, "
            "so nothing could load it; export the adapter instead"
        )
    with staged(path, overwrite) as folder, no_progress_bars():
        merged, errors = _merged(source)
        merged.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        difference = _check_merged(source, folder, merged, source.tolerance(tolerance))
    return _report(source, "merged", Path(path), None, errors, difference)


# The model in hand --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """The model in hand, checked.

    Attributes:
        model: The `PeftModel`.
        base: What it adapts, adapted layers included.
        adapter: Name of its adapter.
        config: The adapter's configuration.
        layers: Adapted layers by their name in the base model.
        probe: Inputs for the check.
        logits: Of the model on the probe, float64.
    """

    model: PeftModel
    base: nn.Module
    adapter: str
    config: LoraConfig
    layers: dict[str, LoraLayer]
    probe: dict[str, Tensor]
    logits: Tensor

    @classmethod
    def of(cls, model: PeftModel, probe: Probe | None) -> _Source:
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
        logits = logits_of(model, inputs)
        if not logits.isfinite().all():
            raise ExportError("the model gives logits that are NaN or infinite on the probe inputs")
        return cls(model, base, adapter, config, layers, inputs, logits)

    @property
    def is_plain(self) -> bool:
        """Whether the adapter is LoRA, without magnitudes."""
        return all(dora_magnitude(layer, self.adapter) is None for layer in self.layers.values())

    def rank(self) -> int:
        """The largest rank of a layer; 0 where whole modules are trained instead of factors."""
        return max((int(layer.r[self.adapter]) for layer in self.layers.values()), default=0)

    def tolerance(self, given: float | None) -> float:
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
        changed = [n for n, p in _unloaded(self).named_parameters() if p.requires_grad]
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


# The written adapter ------------------------------------------------------------------------------


@dataclass
class _Errors:
    """Squares of the Frobenius norms of the changes and of what is missing of them, by layer."""

    missing: dict[str, float] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)

    @classmethod
    def none(cls, layers: Iterable[str]) -> _Errors:
        """Of an export that keeps every factor."""
        layers = list(layers)
        return cls(dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 1.0))

    def add(self, name: str, change: Tensor, written: Tensor) -> None:
        self.whole[name] = float(change.square().sum())
        self.missing[name] = float((change - written).square().sum())

    @property
    def by_layer(self) -> dict[str, float]:
        return {name: _ratio(self.missing[name], whole) for name, whole in self.whole.items()}

    @property
    def total(self) -> float:
        return _ratio(sum(self.missing.values()), sum(self.whole.values()))


def _ratio(missing: float, whole: float) -> float:
    if not whole:
        return math.inf if missing else 0.0
    return math.sqrt(missing / whole)


@dataclass(frozen=True)
class _Written:
    """A plain LoRA adapter, ready to be written."""

    config: LoraConfig
    tensors: dict[str, Tensor]
    rank: int
    errors: _Errors


def _as_it_is(source: _Source) -> _Written:
    config = _plain_config(source.config)
    return _Written(config, source.adapter_tensors(), source.rank(), _Errors.none(source.layers))


@torch.no_grad()
def _truncated(source: _Source, rank: int) -> _Written:
    heads = {k: v for k, v in source.adapter_tensors().items() if ".lora_" not in k}
    tensors, ranks, errors = dict(heads), {}, _Errors()
    for name, layer in source.layers.items():
        change = weight_change(layer, source.adapter)
        A, B = _best_factors(layer, source.adapter, change, min(rank, *change.shape))
        errors.add(name, change, B.double() @ A.double())
        ranks[name] = len(A)
        for key, tensor in factor_tensors(layer, A, B).items():
            tensors[f"{PREFIX}{name}.{key}"] = tensor
    largest = max(ranks.values())
    smaller = {f"^{re.escape(name)}": r for name, r in ranks.items() if r < largest}
    config = _plain_config(
        source.config,
        r=largest,
        lora_alpha=largest,
        rank_pattern=smaller,
        alpha_pattern=dict(smaller),
        use_dora=False,
        use_rslora=False,
    )
    return _Written(config, tensors, largest, errors)


def _best_factors(
    layer: LoraLayer, adapter: str, change: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """`A` `(r, d_in)` and `B` `(d_out, r)` with `r <= rank`, scaling 1, float32 or float64."""
    A, B, s = low_rank_factors(layer, adapter)
    dtype = compute_dtype(A, B)
    A, B = A.to(dtype), s * B.to(dtype)
    if dora_magnitude(layer, adapter) is not None:
        best = truncated_svd(change.to(dtype), rank)
        return best.A, best.B
    if len(A) <= rank:
        return A, B
    best = truncated_product(A, B, rank)
    return best.A, best.B


def _plain_config(config: LoraConfig, **changes: Any) -> LoraConfig:
    """The same targets and heads; loading it must not start an init of its own."""
    plain = copy.deepcopy(config)
    for name, value in {"inference_mode": True, "init_lora_weights": True, **changes}.items():
        setattr(plain, name, value)
    return plain


def _check_adapter(
    source: _Source, folder: Path, tensors: Mapping[str, Tensor], tolerance: float
) -> float:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        try:
            loaded = PeftModel.from_pretrained(_unloaded(source), str(folder))
        except Exception as error:
            raise ExportError(f"plain PEFT cannot load what was written: {error}") from error
    check_same(tensors, get_peft_model_state_dict(loaded), "adapter")
    return logit_difference(logits_of(loaded, source.probe), source.logits, tolerance)


# The merged model ---------------------------------------------------------------------------------


@torch.no_grad()
def _merged(source: _Source) -> tuple[PreTrainedModel, _Errors]:
    merged = cast(PreTrainedModel, _unloaded(source, heads=True))
    errors = _Errors()
    for name, layer in source.layers.items():
        weight, W = layer.get_base_layer().weight, base_rows(layer)
        if not weight.is_floating_point():
            raise ExportError(
                f"the base weight of {name} is quantised ({weight.dtype}); load the base model in "
                "bfloat16, put the adapter on it and export that"
            )
        change = weight_change(layer, source.adapter)
        rows = (W.double() + change).to(W.dtype)
        if not rows.isfinite().all():
            raise ExportError(
                f"the merged weight of {name} is NaN or infinite in {W.dtype}; load the base model "
                "in a wider dtype, or export an earlier checkpoint"
            )
        errors.add(name, change, rows.double() - W.double())
        merged.get_submodule(name).weight = nn.Parameter(
            as_weight(layer, rows), requires_grad=False
        )
    _untie(cast(PreTrainedModel, _unloaded(source)), merged)
    return merged, errors


def _untie(base: PreTrainedModel, merged: PreTrainedModel) -> None:
    """Let the written config say where tied weights are no longer one."""
    broken = [
        names
        for names in _tied(base)
        if len({id(merged.get_parameter(name)) for name in names}) > 1
    ]
    if not broken:
        return
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    words = {id(end.weight) for end in ends if end is not None}
    for names in broken:
        if id(base.get_parameter(names[0])) not in words:
            raise ExportError(
                f"{' and '.join(names)} are one weight in the base model and differ once merged; "
                "export the adapter, or leave them out of target_modules"
            )
    merged.config.tie_word_embeddings = False
    merged.all_tied_weights_keys = {}


def _tied(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one tensor."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _check_merged(
    source: _Source, folder: Path, merged: PreTrainedModel, tolerance: float
) -> float:
    with torch.random.fork_rng():
        try:
            loaded = type(merged).from_pretrained(folder)
        except Exception as error:
            raise ExportError(f"transformers cannot load what was written: {error}") from error
    check_same(merged.state_dict(), loaded.state_dict(), "merged model")
    loaded = loaded.to(source.logits.device)
    return logit_difference(logits_of(loaded, source.probe), source.logits, tolerance)


def _unloaded(source: _Source, *, heads: bool = False) -> nn.Module:
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


@contextlib.contextmanager
def _quiet_embeddings() -> Iterator[None]:
    """PEFT announces that it saves adapted embeddings, and that it found no config of the base."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
        warnings.filterwarnings("ignore", message="Could not find a config file in.*")
        yield


def _report(
    source: _Source, kind: str, path: Path, rank: int | None, errors: _Errors, difference: float
) -> ExportReport:
    return ExportReport(
        kind=kind,
        path=path,
        rank=rank,
        relative_error=errors.total,
        layer_errors=errors.by_layer,
        logit_difference=difference,
        largest_logit=float(source.logits.abs().max()),
        size_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    )
