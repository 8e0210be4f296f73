"""The text that forgetting is measured on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch import nn

from rankwright.errors import MethodError
from rankwright.job.paths import expanded
from rankwright.tasks import StdlibDocs
from rankwright.tasks.errors import Where
from rankwright.tasks.prepared.causal import PreparedCausal
from rankwright.tasks.prepared.forward import forward_rows

MOST_TEXTS = 64


MOST_TOKENS = 256


@dataclass(frozen=True)
class HeldText:
    """Paragraphs that no task trains on.

    Attributes:
        name: What reports call it.
        texts: The paragraphs; each is scored by itself, its first `MOST_TOKENS` tokens.
    """

    name: str
    texts: tuple[str, ...]

    @classmethod
    def read(cls, path: str | None) -> HeldText:
        """The paragraphs of a text file; docstrings of Python's standard library for None.

        Raises:
            MethodError: The file cannot be read, or there is nothing in it.
        """
        if path is None:
            docs = [str(row["text"]) for row in StdlibDocs().read()["train"]]
            return cls("docstrings of the standard library", _spread(docs))
        try:
            text = expanded(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MethodError(f"held_text = {path!r}: cannot be read ({error})") from error
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        if not paragraphs:
            raise MethodError(f"held_text = {path!r}: expected paragraphs of text; it is empty")
        return cls(Path(path).name, _spread(paragraphs))

    @property
    def sha256(self) -> str:
        """Digest of the paragraphs."""
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()

    def loss(
        self, model: nn.Module, prepared: PreparedCausal, batch_size: int
    ) -> tuple[float, int]:
        """Mean -log p of a token in nats, and the number of scored tokens.

        Args:
            model: A causal language model.
            prepared: Its task, for the tokenizer.
            batch_size: Paragraphs of one forward pass.
        """
        encoder = prepared.encoder
        where = (Where(self.name, number) for number in range(1, len(self.texts) + 1))
        rows = [
            encoder.row(place, [], ids[:MOST_TOKENS])
            for place, ids in zip(where, encoder.pieces(self.texts), strict=True)
        ]
        reduced, _ = forward_rows(
            model,
            Dataset.from_list(rows),
            prepared.collator,
            prepared.preprocess_logits_for_metrics,
            batch_size,
        )
        nats, tokens = np.array(reduced, dtype=np.float64).sum(0)
        return float(nats / tokens), int(tokens)


def _spread(texts: list[str]) -> tuple[str, ...]:
    """At most `MOST_TEXTS` of them, evenly from start to end."""
    return tuple(texts[:: -(-len(texts) // MOST_TEXTS)])
