"""Load the adapter of a finished run with PEFT, and check its tensors against its file.

PEFT only warns about missing tensors, and ignores unexpected ones.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from transformers import PreTrainedModel

from rankwright.core.export import Export
from rankwright.core.method_registry import get_method
from rankwright.errors import MethodError
from rankwright.job.files import read_mapping
from rankwright.job.folder import RunFolder
from rankwright.job.head import Head
from rankwright.job.models import load_with_head
from rankwright.job.run_files import incomplete_error, read_run_file
from rankwright.peft_layers.adapter_file import MAGNITUDE
from rankwright.tasks import PreparedTask


def load_adapted(folder: RunFolder, prepared: PreparedTask | None = None) -> PeftModel:
    """Load the adapted model of a finished run with PEFT alone; its data is not needed.

    Args:
        folder: The run.
        prepared: A task to evaluate the model on, whose head has to be that of the run; None for
            no such check.

    Raises:
        MethodError: The run is not finished, a file of it is missing or damaged, a tensor of the
            adapter is missing, unknown, NaN or infinite, or the labels are not those of training.
    """
    if not folder.adapter.is_dir():
        raise MethodError(
            f"{folder.path} holds no adapter: the run is not finished. Continue it with: "
            f"{folder.resume}"
        )
    head = read_run_file(folder.head, Head.load)
    if prepared is not None and Head.of(prepared) != head:
        raise MethodError(
            f"{folder.path} was trained as {head}; {prepared.task.name} now needs "
            f"{Head.of(prepared)}. Evaluate it on the data that it was trained on, or on rows with "
            "the same labels"
        )
    base = load_with_head(folder.config.model, head, folder.config.seed)
    return read_adapter(base.model, folder.adapter, folder.method.made_of().export)


def load_adapter(base: PreTrainedModel, folder: str | os.PathLike[str], method: str) -> PeftModel:
    """Load an adapter onto a base model, for methods whose adapters PEFT alone does not load.

    Args:
        base: The model that the adapter was trained on; modified in place.
        folder: Holds the adapter and its side files.
        method: Name of the method that trained it: registered, or `package.module:Class`.

    Raises:
        MethodError: The method is unknown, or the adapter cannot be read; see `read_adapter`.
    """
    return read_adapter(base, Path(folder), get_method(method)().slots().export)


def read_adapter(base: PreTrainedModel, folder: Path, export: Export) -> PeftModel:
    """Load the adapter of a folder onto a base model.

    Args:
        base: The model that the adapter was trained on.
        folder: Holds the adapter and its side files.
        export: The slot of the method that trained it.

    Raises:
        MethodError: A file is missing or damaged, a tensor is NaN or infinite, or the tensors are
            not exactly those that the configuration asks for.
    """
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    for file in (folder / CONFIG_NAME, weights):
        if not file.is_file():  # PEFT would look for it on the hub
            raise incomplete_error(file, "No such file or directory")
    read_run_file(folder / CONFIG_NAME, read_mapping)
    try:
        stored = _finite_tensors(weights)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*missing adapter keys.*")
            model = export.load(base, folder)
    except MethodError:
        raise
    except KeyError as error:  # the weight of a module that is saved whole
        raise incomplete_error(folder, f"it lacks {error.args[0]}") from error
    except Exception as error:  # readers of damaged files raise anything
        raise incomplete_error(folder, error) from error
    _check_names(model, stored, weights)
    # The base may have moved since training: exports name the place where it was found.
    model.active_peft_config.base_model_name_or_path = base.name_or_path
    return model


def _finite_tensors(path: Path) -> set[str]:
    """Return the names of the tensors in a file.

    Raises:
        MethodError: A tensor holds NaN or infinite values.
    """
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name in sorted(names):
            if not torch.isfinite(file.get_tensor(name)).all():
                raise MethodError(
                    f"{path}: {name} holds NaN or infinite values, so the model gives no numbers; "
                    "train again, with a smaller learning rate if the run diverged"
                )
    return names


def _check_names(model: PeftModel, stored: set[str], path: Path) -> None:
    """Refuse missing and unexpected tensors; embeddings are optional.

    DoRA's magnitudes may have the name that the loader in transformers reads, or PEFT's.
    """
    stored = {re.sub(rf"({MAGNITUDE})\.weight$", r"\1", name) for name in stored}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of embeddings that PEFT does not find
        wanted, allowed = (
            get_peft_model_state_dict(model, save_embedding_layers=embeddings).keys()
            for embeddings in (False, True)
        )
    problems = (
        ("lacks", sorted(wanted - stored), "that the adapter's configuration asks for"),
        ("has", sorted(stored - allowed), "that the adapter's configuration does not ask for"),
    )
    for verb, names, which in problems:
        if names:
            more = f" and {len(names) - 1} more tensors" if names[1:] else ""
            raise MethodError(
                f"{path} {verb} {names[0]}{more} {which}; expected the adapter as `rankwright "
                "train` wrote it"
            )
