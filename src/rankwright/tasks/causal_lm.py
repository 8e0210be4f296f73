"""Language modelling: completions of prompts, or plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rankwright.tasks import rows
from rankwright.tasks.base import Task
from rankwright.tasks.causal import CausalEncoder, PreparedCausal
from rankwright.tasks.errors import TaskError, cell_error
from rankwright.tasks.forward import by_length, inference
from rankwright.tasks.metrics import METRICS, Form, Outcome, final_number
from rankwright.tasks.rows import Row
from rankwright.tasks.template import Template
from rankwright.tasks.tokenizing import token_limit


@dataclass(frozen=True, kw_only=True)
class CausalLM(Task):
    """Completing prompts, with loss on the completions only; or plain text, with loss on all of it.

    Metrics over generated text (`bleu`, `exact_number`) let the model complete every prompt
    greedily; `evaluate` reports them, a `Trainer` in mid-training does not.

    Attributes:
        prompt_column: The prompt. `None` for plain text.
        prompt_template: What the model is shown, with `{prompt}` for the prompt and `{column}` for
            any other column; see `Template`.
        completion_column: What the model is to say, or the plain text.
        references_column: In validation and test rows, a list of acceptable completions; where a
            row has it, the completion is its first. `None` if there is one completion a row.
        max_new_tokens: Most tokens to generate for a prompt.
    """

    prompt_column: str | None = None
    prompt_template: str = "{prompt}\n"
    completion_column: str = "text"
    references_column: str | None = None
    max_new_tokens: int = 128
    metrics: tuple[str, ...] = ("loss_per_token", "perplexity")

    kind: ClassVar[str] = "causal_lm"
    forms: ClassVar[frozenset[Form]] = frozenset({"nats", "texts"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_column is not None:
            self.template.check_hidden((self.completion_column, self.references_column))
        elif self.prompt_template != type(self).prompt_template:
            raise TaskError(
                f"prompt_template={self.prompt_template!r}: there is no prompt to put into it. Set "
                "prompt_column, or leave prompt_template out for plain text."
            )
        if self.generates and self.prompt_column is None:
            raise TaskError(
                f"metrics {', '.join(self.metrics)}: to generate text the task needs prompts. "
                "Set prompt_column, or leave loss_per_token and perplexity."
            )

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The prompt and what else the template shows, or the plain text."""
        return self.template.named if self.prompt_column else (self.completion_column,)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The completion; plain text is its own target."""
        return (self.completion_column,) if self.prompt_column else ()

    @cached_property
    def template(self) -> Template:
        """What a prompt is put into; a task of plain text has none."""
        return Template(self.prompt_template, str(self.prompt_column))

    @property
    def generates(self) -> bool:
        """Whether a metric needs generated text."""
        return any("texts" in METRICS[name].forms for name in self.metrics)

    def references(self, row: Row) -> list[str]:
        """Returns every acceptable completion of a row.

        Raises:
            TaskError: If there is none, or `exact_number` is asked for and it has no number.
        """
        column = self.references_column
        if column is not None and column in row.fields:
            texts = rows.strings(row, column)
        else:
            column = self.completion_column
            texts = [rows.text(row, column)]
        if "exact_number" in self.metrics and None in map(final_number, texts):
            fix = "Write the number after ####, or drop the metric exact_number."
            raise cell_error(row.where, column, texts[0], "a text with a final number", fix)
        return texts

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> PreparedCausalLM:
        """Tokenises prompts and completions apart and joins them at an exact boundary."""
        encoder = CausalEncoder(tokenizer, token_limit(tokenizer, self.max_length))
        if self.generates and self.max_new_tokens > encoder.limit - 2:
            raise TaskError(
                f"max_new_tokens={self.max_new_tokens} leaves no room for a prompt in "
                f"max_length={encoder.limit} tokens. Lower the one or raise the other."
            )
        splits = self.load()

        def encode(split: Sequence[Row]) -> Dataset:
            prompts = encoder.pieces([self.shown(row) for row in split])
            answers = encoder.pieces([self.references(row)[0] for row in split])
            where = [row.where for row in split]
            if self.generates:
                for place, prompt in zip(where, prompts, strict=True):
                    encoder.check_prompt(place, prompt)
            return Dataset.from_list(list(map(encoder.row, where, prompts, answers)))

        datasets = splits.map(encode)
        return PreparedCausalLM(
            task=self,
            tokenizer=encoder.tokenizer,
            rows=splits,
            collator=encoder.collator,
            notices=encoder.notices,
            encoder=encoder,
            **datasets,
        )

    def shown(self, row: Row) -> str:
        """Returns what the model is shown before it completes; nothing for plain text."""
        return self.template.fill(row) if self.prompt_column else ""


@dataclass(frozen=True, kw_only=True)
class PreparedCausalLM(PreparedCausal):
    """Rows of prompt and completion."""

    task: CausalLM

    def predict(
        self,
        model: torch.nn.Module,
        *,
        batch_size: int = 32,
        split: str = "validation",
        limit: int | None = None,
    ) -> dict[Form, Outcome]:
        """Scores the completions and, where a metric needs it, generates some."""
        outcomes = super().predict(model, batch_size=batch_size, split=split, limit=limit)
        if self.task.generates:
            some = [self.rows[split][row] for row in self.drawn(split, limit)]
            texts = self.generate(model, [self.task.shown(row) for row in some], batch_size)
            outcomes["texts"] = Outcome(texts, [self.task.references(row) for row in some])
        return outcomes

    def generate(
        self, model: torch.nn.Module, prompts: Sequence[str], batch_size: int = 32
    ) -> list[str]:
        """Completes prompts greedily, in batches padded on the left.

        Args:
            model: A causal language model.
            prompts: What the model is shown, template included.
            batch_size: Prompts per batch.

        Returns:
            The completions without special tokens and surrounding white space, in order.
        """
        tokenizer, new = self.tokenizer, self.task.max_new_tokens
        config = GenerationConfig(
            max_new_tokens=new,
            do_sample=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        starts = [self.encoder.prompt(ids, new) for ids in self.encoder.pieces(prompts)]
        texts = [""] * len(starts)
        generate: Callable[..., torch.Tensor] = model.generate  # type: ignore[assignment]
        with inference(model) as device:
            for indices in by_length([len(start) for start in starts], batch_size):
                ids, mask = left_padded([starts[i] for i in indices], tokenizer.pad_token_id)
                output = generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    generation_config=config,
                )
                said = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
                for index, text in zip(indices, said, strict=True):
                    texts[index] = text.strip()
        return texts


def left_padded(starts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns token ids and attention mask, `(rows, tokens)`; every row ends at the right edge."""
    width = max(map(len, starts))
    ids = [[pad] * (width - len(start)) + list(start) for start in starts]
    mask = [[0] * (width - len(start)) + [1] * len(start) for start in starts]
    return torch.tensor(ids), torch.tensor(mask)
