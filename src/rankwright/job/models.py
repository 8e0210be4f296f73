"""Models by name, and the adapted model of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import transformers
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rankwright.errors import MethodError
from rankwright.job.adapter import read_adapter
from rankwright.job.folder import RunFolder, read_whole
from rankwright.job.head import Head
from rankwright.job.paths import EXPECTED, resolve_model
from rankwright.tasks import PreparedTask

VOCABULARIES = (
    *("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model"),
    *("sentencepiece.bpe.model", "tekken.json"),
)
"""Files that a tokenizer is read from."""


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        MethodError: It cannot be loaded, or the model comes without one.
    """
    found = resolve_model(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(found)
    except Exception as error:  # readers of damaged files raise anything, even bare exceptions
        if Path(found).is_dir() and not any(
            (Path(found) / file).is_file() for file in VOCABULARIES
        ):
            raise MethodError(_no_tokenizer(name)) from error
        raise MethodError(_cannot_load(name, error)) from error
    # Without these files transformers makes some tokenizers with an empty vocabulary.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise MethodError(_no_tokenizer(name))
    return tokenizer


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
    """The pretrained model with a head for the task; a head of another size is replaced.

    Args:
        name: Folder, hub name or "minilm".
        prepared: The task; says which class and how many labels.
        seed: Seed of a head that is not in the pretrained file, or not in this size.

    Raises:
        MethodError: The model cannot be loaded.
        TaskError: The model cannot do the task.
    """
    base = _with_head(name, Head.of(prepared), seed)
    prepared.check_model(base.model)
    return base


def _with_head(name: str, head: Head, seed: int) -> Base:
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
    except Exception as error:  # as in `load_tokenizer`
        raise MethodError(_cannot_load(name, error)) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    mismatched = loading["mismatched_keys"]
    for key, stored, wanted in mismatched:
        if key.startswith(f"{model.base_model_prefix}."):  # not of the head
            raise MethodError(
                f"the model {name!r} has {key} of shape {tuple(stored)} and a config that asks for "
                f"{tuple(wanted)}; expected weights and config of one model"
            )
    missing = {*loading["missing_keys"], *(key for key, *_ in mismatched)}
    names = (name for name, _ in model.named_parameters(remove_duplicate=False))
    return Base(model, [name for name in names if name in missing], bool(mismatched))


def load_adapted(folder: RunFolder, prepared: PreparedTask | None = None) -> PeftModel:
    """The adapted model of a finished run, by PEFT alone; its data need not be there.

    Args:
        folder: The run.
        prepared: What the model is to be asked about.

    Raises:
        MethodError: The run is not finished, a file of it is missing or not whole, a tensor of the
            adapter is missing, unknown, NaN or infinite, or the labels are not those that it was
            trained with.
    """
    if not folder.adapter.is_dir():
        raise MethodError(
            f"{folder.path} holds no adapter: the run is not finished. Go on with: {folder.resume}"
        )
    head = read_whole(folder.head, Head.load)
    if prepared is not None and Head.of(prepared) != head:
        raise MethodError(
            f"{folder.path} was trained as {head}; {prepared.task.name} now wants "
            f"{Head.of(prepared)}. Evaluate it on the data that it was trained on, or on rows with "
            "the same labels"
        )
    base = _with_head(folder.config.model, head, folder.config.seed)
    return read_adapter(base.model, folder.adapter, folder.method.made_of().export)


def _cannot_load(name: str, error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    first = said.splitlines()[0]
    if first.endswith(":"):  # a list follows
        first = " ".join(said.split())
    return f"cannot load the model {name!r}: {first} {EXPECTED}"


def _no_tokenizer(name: str) -> str:
    return (
        f"the model {name!r} comes without a tokenizer: expected {VOCABULARIES[0]}, or one of "
        f"{', '.join(VOCABULARIES[1:])}, beside its weights. Save the tokenizer of the model that "
        "it was made from there: AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER)"
    )
