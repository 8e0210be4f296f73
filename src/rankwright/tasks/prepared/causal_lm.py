"""Prompts and completions, tokenised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rankwright.tasks.causal_lm import CausalLM
from rankwright.tasks.errors import TaskError
from rankwright.tasks.metrics import Form, Outcome
from rankwright.tasks.prepared.causal import CausalEncoder, PreparedCausal
from rankwright.tasks.prepared.forward import by_length, inference
from rankwright.tasks.prepared.tokenizing import token_limit
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import Splits


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
        """Score the completions, and generate some if a metric needs them."""
        outcomes = super().predict(model, batch_size=batch_size, split=split, limit=limit)
        if self.task.generates:
            some = [self.rows[split][row] for row in self.draw_rows(split, limit)]
            texts = self.generate(model, [self.task.shown(row) for row in some], batch_size)
            outcomes["texts"] = Outcome(texts, [self.task.references(row) for row in some])
        return outcomes

    def generate(
        self, model: torch.nn.Module, prompts: Sequence[str], batch_size: int = 32
    ) -> list[str]:
        """Complete prompts greedily, in batches padded on the left.

        Args:
            model: A causal language model.
            prompts: The prompts, with the template.
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
    """Return token ids and attention mask, `(rows, tokens)`; every row ends at the right edge."""
    width = max(map(len, starts))
    ids = [[pad] * (width - len(start)) + list(start) for start in starts]
    mask = [[0] * (width - len(start)) + [1] * len(start) for start in starts]
    return torch.tensor(ids), torch.tensor(mask)


def prepare(task: CausalLM, tokenizer: PreTrainedTokenizerBase, splits: Splits) -> PreparedCausalLM:
    """Tokenise prompts and completions separately, and join them at an exact boundary.

    Raises:
        TaskError: If `max_new_tokens` leaves no room, or a row has too few tokens.
    """
    encoder = CausalEncoder(tokenizer, token_limit(tokenizer, task.max_length))
    if task.generates and task.max_new_tokens > encoder.limit - 2:
        raise TaskError(
            f"max_new_tokens={task.max_new_tokens} leaves no room for a prompt in "
            f"max_length={encoder.limit} tokens. Lower the one or raise the other."
        )

    def encode(split: Sequence[Row]) -> Dataset:
        prompts = encoder.pieces([task.shown(row) for row in split])
        answers = encoder.pieces([task.references(row)[0] for row in split])
        where = [row.where for row in split]
        if task.generates:
            for place, prompt in zip(where, prompts, strict=True):
                encoder.check_prompt(place, prompt)
        return Dataset.from_list(list(map(encoder.row, where, prompts, answers)))

    return PreparedCausalLM.from_encoder(task, splits, encoder, encode)
