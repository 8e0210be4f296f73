"""Load a pretrained model with the head that a task needs."""

from __future__ import annotations

from dataclasses import dataclass

import transformers
from transformers import PreTrainedModel

from rankwright.errors import MethodError
from rankwright.job.head import Head
from rankwright.job.model_names import cannot_load, resolve_model
from rankwright.tasks import PreparedTask


@dataclass(frozen=True)
class Base:
    """A pretrained model with a head for a task.

    Attributes:
        model: The model.
        missing_keys: Names of its parameters that its file lacks, or has in another shape.
        replaces_head: Whether the file has a head of another size.
    """

    model: PreTrainedModel
    missing_keys: list[str]
    replaces_head: bool


def load_base(name: str, prepared: PreparedTask, seed: int) -> Base:
    """Load a pretrained model for a task; a head of another size is replaced.

    Args:
        name: Folder, hub name or "minilm".
        prepared: The task, which determines the class and the number of labels.
        seed: Seed of a head that is not in the pretrained file, or not in this size.

    Raises:
        MethodError: The model cannot be loaded.
        TaskError: The model cannot do the task.
    """
    base = load_with_head(name, Head.of(prepared), seed)
    prepared.check_model(base.model)
    return base


def load_with_head(name: str, head: Head, seed: int) -> Base:
    """Load a pretrained model with a head; a head of another size is replaced.

    Args:
        name: Folder, hub name or "minilm".
        head: The class and the arguments to load it with.
        seed: Seed of a head that is not in the pretrained file, or not in this size.

    Raises:
        MethodError: The model cannot be loaded.
    """
    transformers.set_seed(seed)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # a new head is expected here
    model: PreTrainedModel
    found = resolve_model(name)
    try:
        model, loading = getattr(transformers, head.auto_class).from_pretrained(
            found,
            **head.model_kwargs,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # readers of damaged files raise anything, even bare exceptions
        raise cannot_load(name, error) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    mismatched = loading["mismatched_keys"]
    for key, stored, wanted in mismatched:
        if key.startswith(f"{model.base_model_prefix}."):  # a weight of the body, not of the head
            raise MethodError(
                f"the model {name!r} has {key} of shape {tuple(stored)} and a config that asks for "
                f"{tuple(wanted)}; expected weights and config of one model"
            )
    missing = {*loading["missing_keys"], *(key for key, *_ in mismatched)}
    names = (name for name, _ in model.named_parameters(remove_duplicate=False))
    return Base(model, [name for name in names if name in missing], bool(mismatched))
