"""What leaves training: the adapter as trained, a plain LoRA of a stated rank, the merged model.

Every export is written to a temporary folder beside its target, loaded again by plain PEFT or
transformers, compared with the model in hand tensor by tensor and on probe inputs, and only then
renamed to its name. An adapter has to fit the base model as its file has it, too. The model in hand
keeps every bit; its base weights are shared, not copied.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rankwright.algebra.precision import compute_dtype
from rankwright.algebra.truncation import truncated_product, truncated_svd
from rankwright.peft_layers.rank_patterns import PREFIX, target_name, write_patterns
from rankwright.peft_layers.weight_change import factor_tensors, weight_change
from rankwright.peft_layers.weight_view import dora_magnitude, low_rank_factors
from rankwright.training.adapter_file import save_adapter
from rankwright.training.export.anew import check_anew
from rankwright.training.export.check import (
    LOGIT_TOLERANCE,
    Errors,
    ExportError,
    check_same,
    logit_difference,
    no_progress_bars,
    staged,
)
from rankwright.training.export.merged import check_merged, merged_model
from rankwright.training.export.probe import Probe
from rankwright.training.export.source import Source, unloaded

__all__ = [
    "LOGIT_TOLERANCE",
    "ExportError",
    "ExportReport",
    "Probe",
    "export_adapter",
    "export_lora",
    "export_merged",
]


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
    finish: Callable[[Path], None] | None = None,
) -> ExportReport:
    """Write the adapter as it stands, as PEFT does.

    Args:
        model: A model with one LoRA or DoRA adapter, unmerged.
        path: The folder to write; its parents are made.
        probe: A batch of inputs for the check; random token ids by default.
        tolerance: Largest logit difference that passes, relative to the largest logit; by default
            `LOGIT_TOLERANCE` of the base dtype.
        overwrite: Replace an export that is there.
        finish: Called with the checked folder before it is renamed; may add files.

    Returns:
        What was written and measured.

    Raises:
        ExportError: The model cannot be exported so, something is in the way at `path`, a tensor
            is NaN or infinite, what plain PEFT loads is not the model in hand, or the base model
            has weights that neither its file nor the adapter holds.
    """
    source = Source.of(model, probe)
    source.check_base()
    with staged(path, overwrite) as folder, _quiet_embeddings():
        tensors = source.adapter_tensors()
        save_adapter(model, folder, source.adapter)
        difference = _check_adapter(source, folder, tensors, source.tolerance(tolerance))
        if finish is not None:
            finish(folder)
    errors = Errors.none(source.layers)
    return _report(source, "adapter", Path(path), source.rank(), errors, difference)


def export_lora(
    model: PeftModel,
    path: str | os.PathLike[str],
    rank: int | None = None,
    *,
    probe: Probe | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
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
        finish: See `export_adapter`.

    Returns:
        What was written and measured; the errors are of the factors as they were written.

    Raises:
        ExportError: See `export_adapter`; or the rank is no positive integer, or is missing.
    """
    source = Source.of(model, probe)
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
        allowed = source.tolerance(tolerance)
        difference = _check_adapter(source, folder, written.tensors, allowed, exact=exact)
        if finish is not None:
            finish(folder)
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
    source = Source.of(model, probe)
    if not isinstance(source.base, PreTrainedModel):
        raise ExportError(
            f"cannot write a merged {type(source.base).__name__}: it is not a transformers model, "
            "so nothing could load it; export the adapter instead"
        )
    with staged(path, overwrite) as folder, no_progress_bars():
        merged, errors = merged_model(source)
        merged.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        difference = check_merged(source, folder, merged, source.tolerance(tolerance))
    return _report(source, "merged", Path(path), None, errors, difference)


# The written adapter ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Written:
    """A plain LoRA adapter, ready to be written."""

    config: LoraConfig
    tensors: dict[str, Tensor]
    rank: int
    errors: Errors


def _as_it_is(source: Source) -> _Written:
    config = _plain_config(source.config)
    return _Written(config, source.adapter_tensors(), source.rank(), Errors.none(source.layers))


@torch.no_grad()
def _truncated(source: Source, rank: int) -> _Written:
    heads = {k: v for k, v in source.adapter_tensors().items() if ".lora_" not in k}
    tensors, ranks, errors = dict(heads), {}, Errors()
    for name, layer in source.layers.items():
        change = weight_change(layer, source.adapter)
        A, B = _best_factors(layer, source.adapter, change, min(rank, *change.shape[-2:]))
        errors.add(name, change, B.double() @ A.double())
        ranks[target_name(name, layer)] = A.shape[-2]
        for key, tensor in factor_tensors(layer, A, B).items():
            tensors[f"{PREFIX}{name}.{key}"] = tensor
    largest = max(ranks.values())
    changes = {"r": largest, "lora_alpha": largest, "use_dora": False, "use_rslora": False}
    config = _plain_config(source.config, **changes)
    write_patterns(config, ranks, ranks)
    return _Written(config, tensors, largest, errors)


def _best_factors(
    layer: LoraLayer, adapter: str, change: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """The best `A` and `B` of at most that rank, with scaling 1, in float32 or float64.

    Shapes are those of `low_rank_factors`; experts are approximated one by one.
    """
    A, B, s = low_rank_factors(layer, adapter)
    dtype = compute_dtype(A, B)
    A, B = A.to(dtype), s * B.to(dtype)
    if dora_magnitude(layer, adapter) is not None:
        best = truncated_svd(change.to(dtype), rank)
        return best.A, best.B
    if A.shape[-2] <= rank:
        return A, B
    if A.ndim == 2:
        best = truncated_product(A, B, rank)
        return best.A, best.B
    experts = [truncated_product(*pair, rank) for pair in zip(A, B, strict=True)]
    return torch.stack([e.A for e in experts]), torch.stack([e.B for e in experts])


def _plain_config(config: LoraConfig, **changes: Any) -> LoraConfig:
    """The same targets and heads; loading it must not start an init of its own."""
    plain = copy.deepcopy(config)
    for name, value in {"inference_mode": True, "init_lora_weights": True, **changes}.items():
        setattr(plain, name, value)
    return plain


def _check_adapter(
    source: Source,
    folder: Path,
    tensors: Mapping[str, Tensor],
    tolerance: float,
    *,
    exact: bool = True,
) -> float:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        try:
            loaded = PeftModel.from_pretrained(unloaded(source), str(folder))
        except Exception as error:
            raise ExportError(f"plain PEFT cannot load what was written: {error}") from error
    check_same(tensors, get_peft_model_state_dict(loaded), "adapter")
    logits = source.logits_of(loaded, routed=exact)
    difference = logit_difference(logits, source.logits, tolerance if exact else math.inf)
    check_anew(source, folder, logits, tolerance, routed=exact)
    return difference


@contextlib.contextmanager
def _quiet_embeddings() -> Iterator[None]:
    """PEFT announces that it saves adapted embeddings, and that it found no config of the base.

    It looks for modules only where a key of a pattern is of a parameter.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
        warnings.filterwarnings("ignore", message="Could not find a config file in.*")
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did")
        yield


def _report(
    source: Source, kind: str, path: Path, rank: int | None, errors: Errors, difference: float
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
