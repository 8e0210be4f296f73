"""Length limit, padding and prefix of a tokenizer, which every kind of task needs."""

from __future__ import annotations

import copy

from transformers import PreTrainedTokenizerBase

from rankwright.tasks.errors import TaskError

DEFAULT_MAX_LENGTH = 512
IGNORED = -100  # torch's ignore_index: a label without loss and without metric
UNLIMITED = 1_000_000  # tokenizers without a limit of their own report about 1e30


def token_limit(tokenizer: PreTrainedTokenizerBase, wanted: int | None) -> int:
    """Return the maximum number of tokens of a row.

    Args:
        tokenizer: The tokenizer; its `model_max_length` is the limit of the model.
        wanted: The user's limit; `None` for the model's limit, at most 512.

    Raises:
        TaskError: If the user's limit exceeds that of the model.
    """
    own = int(min(tokenizer.model_max_length, UNLIMITED))
    if wanted is None:
        return min(own, DEFAULT_MAX_LENGTH)
    if wanted > own:
        raise TaskError(
            f"max_length={wanted}: the tokenizer's model takes at most {own} tokens. "
            "Lower max_length."
        )
    return wanted


def with_padding(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """Return a copy of the tokenizer that can pad, and a notice if the original could not.

    Raises:
        TaskError: If it has neither a padding nor an end-of-text token.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token_id is not None:
        return tokenizer, ()
    if tokenizer.eos_token_id is None:
        raise TaskError(
            "the tokenizer has no padding token, and no end-of-text token to use in its place. "
            "Use a model whose tokenizer has one, or set tokenizer.pad_token in Python."
        )
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, (f"the tokenizer has no padding token; {tokenizer.eos_token!r} is used",)


def prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a tokenizer adds before a text.

    They are found by encoding a text with and without special tokens. The configuration is not
    enough: SmolLM2's tokenizer has a `bos_token` and never adds it, Llama 3's has no
    `add_bos_token` and adds it.

    Raises:
        TaskError: If the text with special tokens does not hold the text without them.
    """

    def encode(text: str, *, special: bool = False) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

    text = "x"
    if not encode(text):  # a vocabulary without it (of genes, say) and without an unknown token
        special_tokens = set(tokenizer.all_special_tokens)
        words = (word for word in tokenizer.get_vocab() if word not in special_tokens)
        text = next(filter(encode, words), text)
    bare, full = encode(text), encode(text, special=True)
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    raise TaskError(
        f"the tokenizer {type(tokenizer).__name__} encodes {text!r} as {full}, and without special "
        f"tokens as {bare}; expected the second within the first. Use another tokenizer."
    )
