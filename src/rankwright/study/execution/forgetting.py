"""Forgetting: the loss of a generative model on a text unrelated to its task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from rankwright.job import Job
from rankwright.study.planning.held_text import HeldText
from rankwright.study.records.records import ForgettingRecord
from rankwright.tasks.errors import Where
from rankwright.tasks.prepared.causal import PreparedCausal
from rankwright.tasks.prepared.forward import forward_rows

MAX_TOKENS = 256
"""Tokens of a paragraph that are scored; the rest is cut off."""


@dataclass(frozen=True)
class HeldLoss:
    """The loss of a job's model on a held text.

    Attributes:
        text: The text.
        job: The job, whose model changes as it is trained.
        prepared: The job's task.
    """

    text: HeldText
    job: Job
    prepared: PreparedCausal

    def compute(self) -> tuple[float, int]:
        """Return the present mean -log p of a token, in nats, and the number of scored tokens."""
        encoder = self.prepared.encoder
        pieces = encoder.pieces(self.text.paragraphs)
        rows = [
            encoder.row(Where(self.text.name, number), [], ids[:MAX_TOKENS])
            for number, ids in enumerate(pieces, start=1)
        ]
        reduced, _ = forward_rows(
            self.job.model,
            Dataset.from_list(rows),
            self.prepared.collator,
            self.prepared.preprocess_logits_for_metrics,
            self.job.folder.config.eval_batch_size,
        )
        nats, tokens = np.array(reduced, dtype=np.float64).sum(0)
        return float(nats / tokens), int(tokens)

    def record(self, before: tuple[float, int]) -> ForgettingRecord:
        """Return the record of the loss before training, as `compute` gave it, and at present."""
        return ForgettingRecord(
            text=self.text.name,
            sha256=self.text.sha256,
            tokens=before[1],
            before=before[0],
            after=self.compute()[0],
        )


def held_loss(job: Job, path: str | None) -> HeldLoss | None:
    """Return the loss that forgetting is measured by; None for a task that is not generative.

    Args:
        job: A job.
        path: File of the held text; None for the built-in one.
    """
    if not isinstance(job.prepared, PreparedCausal):
        return None
    return HeldLoss(HeldText.read(path), job, job.prepared)
