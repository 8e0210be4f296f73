"""Load the tokenizer of a model."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rankwright.errors import MethodError
from rankwright.job.model_names import cannot_load, resolve_model

VOCABULARIES = (
    *("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model"),
    *("sentencepiece.bpe.model", "tekken.json"),
)
"""Names of the files that tokenizers are read from."""


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Args:
        name: Folder, hub name or "minilm".

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
            raise _no_tokenizer(name) from error
        raise cannot_load(name, error) from error
    # Without these files transformers builds some tokenizers with an empty vocabulary.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise _no_tokenizer(name)
    return tokenizer


def _no_tokenizer(name: str) -> MethodError:
    return MethodError(
        f"the model {name!r} comes without a tokenizer: expected {VOCABULARIES[0]}, or one of "
        f"{', '.join(VOCABULARIES[1:])}, beside its weights. Save the tokenizer of the original "
        "model there: AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER)"
    )
