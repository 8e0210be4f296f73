"""Check that an adapter gives the same model on the base model loaded anew from its file.

The model in hand may have weights that are in no file: a new layer, or a base that was trained
further. Its adapter then fits only the model in hand, which a check against the same weights cannot
detect. So the base is loaded again, under a seed that no run uses, and compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import transformers
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankwright.training.export.errors import ExportError
from rankwright.training.export.source import Source, base_without_adapter
from rankwright.training.progress_bars import no_progress_bars

OTHER_SEED = 0x5EED


def check_on_fresh_base(
    source: Source,
    folder: Path,
    expected: Tensor,
    tolerance: float,
    *,
    load: Callable[[nn.Module, Path], PeftModel],
    routed: bool,
) -> None:
    """Refuse an adapter that does not fit the file of its base model.

    The check is skipped for a quantised base model, and if its file is not found.

    Args:
        source: The model in hand.
        folder: The adapter as written.
        expected: Logits of the written adapter on the base in hand, on the probe.
        tolerance: Largest logit difference that passes, relative to the largest logit.
        load: Loads the adapter.
        routed: Whether `expected` was computed with the expert routes of the model in hand.

    Raises:
        ExportError: Weights outside the adapter differ from those of the file, and the logits
            differ.
    """
    fresh = _load_fresh(source)
    if fresh is None:
        return
    different = _different(source, fresh)
    if not different:
        return
    loaded = load(fresh.to(expected.device), folder)
    difference = float((source.logits_of(loaded, routed=routed) - expected).abs().max())
    if not difference <= tolerance * float(expected.abs().max()):
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise ExportError(
            f"the adapter fits only the model in hand: {fresh.name_or_path!r} has other values "
            f"of {', '.join(different[:3])}{more}, which the adapter does not contain; on the base "
            f"model loaded from there the logits are off by {difference:.2e}. Save the base model "
            "(save_pretrained) and train the copy loaded from there, or export the merged model"
        )


def _load_fresh(source: Source) -> PreTrainedModel | None:
    """Load the base model from its file, on the CPU; None if not found or quantised."""
    base = source.base
    if not (isinstance(base, PreTrainedModel) and base.name_or_path):
        return None
    if getattr(base.config, "quantization_config", None) is not None:
        return None
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(), no_progress_bars():
            torch.manual_seed(OTHER_SEED)
            return cast(
                PreTrainedModel,
                source.export.load_base(
                    base,
                    config=copy.deepcopy(base.config),
                    dtype=base.dtype,
                    ignore_mismatched_sizes=True,
                    local_files_only=True,
                ),
            )
    except (OSError, ValueError):
        return None
    finally:
        transformers.logging.set_verbosity(verbosity)


def _different(source: Source, fresh: PreTrainedModel) -> list[str]:
    """Return names of the base's tensors that differ from the file and are not in the adapter."""
    modules = source.base.named_modules()
    held = tuple(f"{name}." for name, m in modules if isinstance(m, ModulesToSaveWrapper))
    stored = fresh.state_dict()
    return [
        name
        for name, tensor in base_without_adapter(source).state_dict().items()
        if not name.startswith(held) and not _equal(tensor, stored.get(name))
    ]


def _equal(tensor: Tensor, stored: Tensor | None) -> bool:
    if stored is None or stored.shape != tensor.shape:
        return False
    return bool(torch.equal(tensor.to(stored.device, stored.dtype), stored))
