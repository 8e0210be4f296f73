"""Rows of tokens and their log-likelihoods, shared by all tasks of causal language models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

from rankwright.tasks.base import Task
from rankwright.tasks.errors import TaskError, Where
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.prepared.base import ForwardTask
from rankwright.tasks.prepared.checks import check_causal, check_positions
from rankwright.tasks.prepared.forward import first
from rankwright.tasks.prepared.tokenizing import IGNORED, prefix, with_padding
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits


class CausalEncoder:
    """Turns prompts and completions into rows of tokens with an exact boundary.

    Both parts are tokenised separately and joined, so that no token spans the boundary:
    `prefix prompt completion EOS`. The prefix is the tokens that the tokenizer itself puts before a
    text: BOS for Llama 3, none for GPT-2 and SmolLM2. A text that starts with the prefix (a chat
    template writes it) or ends with EOS gets no second one. Rows that are too long are truncated
    and counted: first the prompt, from the left, to keep the text next to the completion; then the
    end of a completion that fills the row by itself.

    Attributes:
        tokenizer: A copy of the given one that can pad.
        limit: Maximum number of tokens of a row.
        prefix: The tokens that the tokenizer puts before every text.
        collator: Pads rows on the right, their labels with -100.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        if tokenizer.eos_token_id is None:
            raise TaskError(
                f"the tokenizer {type(tokenizer).__name__} has no end-of-text token, so a model "
                "could not learn where to stop; it looks like that of an encoder. This task needs "
                "a causal language model (Llama, GPT-2, Qwen, ...)."
            )
        self.tokenizer, self._notices = with_padding(tokenizer)
        self.limit = limit
        self.collator = DataCollatorForTokenClassification(
            self.tokenizer, label_pad_token_id=IGNORED
        )
        self.prefix = prefix(tokenizer)
        self._cut = {"prompts": 0, "completions": 0}

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts without special tokens."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def row(
        self, where: Where, prompt: Sequence[int], completion: Sequence[int], *, end: bool = True
    ) -> dict[str, list[int]]:
        """Join a tokenised prompt and completion to a row with loss on the completion only.

        Args:
            where: The place of the row.
            prompt: May be empty.
            completion: At least one token.
            end: Whether the completion ends with EOS.

        Returns:
            `input_ids`, `attention_mask` and `labels`, which are -100 on the prefix and on the
            prompt.

        Raises:
            TaskError: If the row has no token that a model could predict from earlier ones.
        """
        answer = list(completion)
        if not prompt:
            answer = self._without_prefix(answer)
        if end and answer[-1:] != [self.tokenizer.eos_token_id]:
            answer.append(self.tokenizer.eos_token_id)
        room = self.limit - len(self.prefix)
        self._cut["completions"] += len(answer) > room
        answer = answer[:room]
        start = self._start(prompt, room - len(answer))
        ids = start + answer
        labels = [IGNORED] * len(start) + answer
        if not answer or len(ids) < 2:
            raise TaskError(
                f"{where}: {len(ids)} token{'s' * (len(ids) != 1)} where at least 2 are needed, to "
                "predict one from another; expected a text that the tokenizer knows. Remove the "
                "row."
            )
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

    def prompt(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Return the tokens to generate from, leaving room for `new_tokens` more."""
        return self._start(prompt, self.limit - len(self.prefix) - new_tokens)

    def check_prompt(self, where: Where, prompt: Sequence[int]) -> None:
        """Check that there is a token to generate from.

        Raises:
            TaskError: If the prompt has none and the tokenizer adds none.
        """
        if not prompt and not self.prefix:
            raise TaskError(
                f"{where}: the prompt has no tokens, and the tokenizer adds none, so there is "
                "nothing to generate from; expected a text that the tokenizer knows. Remove the "
                "row."
            )

    def _start(self, prompt: Sequence[int], room: int) -> list[int]:
        """Return the prefix and as much of the prompt's end as fits; count truncated prompts."""
        prompt = self._without_prefix(prompt)
        self._cut["prompts"] += len(prompt) > room
        return self.prefix + prompt[max(0, len(prompt) - room) :]

    def _without_prefix(self, ids: Sequence[int]) -> list[int]:
        size = len(self.prefix)
        return list(ids[size:] if list(ids[:size]) == self.prefix else ids)

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about truncated rows so far, and about the source of the padding token."""
        cuts = (
            f"{count} {what} were cut to fit max_length={self.limit} tokens"
            for what, count in self._cut.items()
            if count
        )
        return (*self._notices, *cuts)


@dataclass(frozen=True, kw_only=True)
class PreparedCausal(ForwardTask):
    """Rows whose `labels` are token ids where loss is wanted and -100 elsewhere.

    Attributes:
        encoder: The encoder of the rows.
    """

    encoder: CausalEncoder

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    form: ClassVar[Form] = "nats"

    @classmethod
    def from_encoder(
        cls,
        task: Task,
        splits: Splits,
        encoder: CausalEncoder,
        encode: Callable[[Sequence[Row]], Dataset],
    ) -> Self:
        """Tokenise every split.

        Args:
            task: The task.
            splits: Its rows.
            encoder: Used by `encode`, and then by the metrics.
            encode: Turns rows into tokenised rows, in the same order.
        """
        datasets = splits.map(encode)  # before the notices, which count truncated rows
        return cls(
            task=task,
            tokenizer=encoder.tokenizer,
            rows=splits,
            collator=encoder.collator,
            notices=splits.notices + encoder.notices,
            encoder=encoder,
            **datasets,
        )

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Nothing: the head is the pretrained one, and masks tell padding from text."""
        return {}

    @property
    def reported_metrics(self) -> tuple[str, ...]:
        """The task's metrics, and always loss_per_token and perplexity."""
        return tuple(dict.fromkeys((*self.task.metrics, "loss_per_token", "perplexity")))

    def check_model(self, model: torch.nn.Module) -> None:
        """Check the number of positions, and that the model is a causal language model."""
        check_positions(model, self.longest)
        check_causal(model, len(self.tokenizer))

    def preprocess_logits_for_metrics(
        self, logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor
    ) -> torch.Tensor:
        """Return summed -log p and the number of scored tokens of every row, `(rows, 2)`."""
        return negative_log_likelihood(first(logits), labels)

    def outcome(
        self,
        reduced: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],  # noqa: ARG002 - already within `reduced`
    ) -> Outcome:
        """Pair summed -log p in nats with the numbers of scored tokens."""
        nats, tokens = np.array(reduced, dtype=np.float64).T
        return Outcome(nats.tolist(), tokens.astype(int).tolist())


def negative_log_likelihood(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Score the labelled tokens of a batch; the logits at `t` predict the token at `t + 1`.

    Args:
        logits: `(rows, tokens, vocabulary)`.
        labels: `(rows, tokens)`, -100 where nothing is scored.

    Returns:
        `(rows, 2)` in float32: summed -log p in nats, and the number of scored tokens.
    """
    target = labels[:, 1:]
    losses = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), target, ignore_index=IGNORED, reduction="none"
    )
    return torch.stack([losses.sum(-1), (target != IGNORED).sum(-1).float()], dim=-1)
