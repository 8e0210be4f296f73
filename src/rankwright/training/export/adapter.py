"""Export the adapter as it was trained."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from rankwright.core.method import Method
from rankwright.training.export.comparison import check_same, logit_difference
from rankwright.training.export.errors import ExportError
from rankwright.training.export.fresh_base import check_on_fresh_base
from rankwright.training.export.probe import Probe
from rankwright.training.export.report import ExportReport, WeightErrors
from rankwright.training.export.source import Source, base_without_adapter
from rankwright.training.export.staging import staged

Loader = Callable[[nn.Module, Path], PeftModel]
"""Base model, folder -> the base model with the adapter of the folder."""


def export_adapter(
    model: PeftModel,
    path: str | os.PathLike[str],
    *,
    method: Method | None = None,
    probe: Probe | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> ExportReport:
    """Write the adapter as it was trained, with the method's side files.

    Args:
        model: A model with one adapter, unmerged.
        path: The folder to write; its parents are created.
        method: The method that trained the adapter; may be left out for LoRA, DoRA and whole
            modules, which are recognised by the model.
        probe: A batch of inputs for the check; by default random token ids.
        tolerance: Largest logit difference that passes, relative to the largest logit; by default
            `LOGIT_TOLERANCE` of the base dtype.
        overwrite: Replace an earlier export.
        finish: Called with the checked folder before it is renamed; may add files.

    Returns:
        What was written, with its measured differences.

    Raises:
        ExportError: The model cannot be exported in this form, `path` is taken, a tensor is NaN or
            infinite, the loaded adapter is not the model in hand, or the base model has weights
            that neither its file nor the adapter holds.
    """
    source = Source.of(model, probe, method)
    form = source.form("adapter")
    source.check_base()
    with staged(path, overwrite) as folder, quiet_embeddings():
        tensors = source.adapter_tensors()
        source.export.save(model, source.adapter, folder)
        difference = check_adapter(
            source,
            folder,
            tensors,
            source.tolerance(tolerance),
            load=source.export.load,
            exact=form.accuracy == "exact",
        )
        if finish is not None:
            finish(folder)
    errors = WeightErrors.zero(source.layers)
    return source.report("adapter", Path(path), source.rank(), errors, difference, form)


def load_by_peft(base: nn.Module, folder: Path) -> PeftModel:
    """Load an adapter as any user of PEFT does."""
    return PeftModel.from_pretrained(base, str(folder))


def check_adapter(
    source: Source,
    folder: Path,
    tensors: Mapping[str, Tensor],
    tolerance: float,
    *,
    load: Loader = load_by_peft,
    exact: bool = True,
) -> float:
    """Load a written adapter, compare it with the model in hand, and return the logit difference.

    Args:
        source: The model in hand.
        folder: The adapter as written.
        tensors: The tensors that it should hold.
        tolerance: Largest logit difference that passes, relative to the largest logit.
        load: Loads the adapter.
        exact: Whether the logits should be those of the model in hand.

    Raises:
        ExportError: The adapter cannot be loaded, or is not what it should be.
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        try:
            loaded = load(base_without_adapter(source), folder)
        except Exception as error:  # PEFT, safetensors and side files each raise their own
            who = "plain PEFT" if load is load_by_peft or source.export.loads_with_peft else "PEFT"
            raise ExportError(f"{who} cannot load what was written: {error}") from error
    check_same(tensors, get_peft_model_state_dict(loaded), "adapter")
    logits = source.logits_of(loaded, routed=exact)
    difference = logit_difference(logits, source.logits, tolerance if exact else math.inf)
    check_on_fresh_base(source, folder, logits, tolerance, load=load, routed=exact)
    return difference


@contextlib.contextmanager
def quiet_embeddings() -> Iterator[None]:
    """Hide PEFT's warnings on saving adapted embeddings and on a base without a config file.

    Also hides a warning on patterns, which PEFT matches with names of modules only, although a key
    may name a parameter.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
        warnings.filterwarnings("ignore", message="Could not find a config file in.*")
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did")
        yield
