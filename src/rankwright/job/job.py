"""A run that is set up and can be trained, evaluated and saved."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from peft import PeftModel

from rankwright.job.card import Facts, write_card
from rankwright.job.data import RunData
from rankwright.job.folder import RunFolder
from rankwright.job.head import Head
from rankwright.job.lock import FolderLock
from rankwright.job.result import RunResult
from rankwright.peft_layers.injection import ADAPTER
from rankwright.tasks import Outcome, PreparedTask
from rankwright.tasks.metrics import Form, score
from rankwright.training import Trainer, checkpoint


@dataclass
class Job:
    """A run that is set up: data read, model adapted, trainer built; nothing trained yet.

    Attributes:
        folder: The folder that it writes to.
        data: Its rows.
        trainer: The trainer, which has the model.
        start: The checkpoint that it continues from; None for a start at step 0.
        lock: Holds the folder against other processes until it is released or the job is deleted;
            None in the other processes of a distributed run.
        replaces_head: Whether the base model's file has a head of another size.
    """

    folder: RunFolder
    data: RunData
    trainer: Trainer
    start: Path | None
    lock: FolderLock | None
    replaces_head: bool

    @property
    def prepared(self) -> PreparedTask:
        """The tokenised rows to train on and to evaluate on."""
        return self.data.prepared

    @property
    def model(self) -> PeftModel:
        """The adapted model."""
        return self.trainer.run.model

    @property
    def head(self) -> Head:
        """The class and arguments that the base model was loaded with."""
        return Head.of(self.prepared, replaces=self.replaces_head)

    def predict(self, split: str) -> dict[Form, Outcome]:
        """Predict the rows of a split, at most `eval_rows` of them, with the model as it is now."""
        config = self.folder.config
        return self.prepared.predict(
            self.model, batch_size=config.eval_batch_size, split=split, limit=config.eval_rows
        )

    def evaluate(self, split: str) -> dict[str, float]:
        """Compute the metrics on the rows that `predict` takes."""
        return score(self.prepared.reported_metrics, self.predict(split))

    def run(self) -> bool:
        """Train to the end; return False if SIGTERM stopped it, after saving a checkpoint."""
        self.trainer.train(resume_from_checkpoint=None if self.start is None else str(self.start))
        return not self.trainer.interrupted

    def save_adapter(self, result: RunResult) -> None:
        """Write the head, then adapter, tokenizer and README, which appear together or not at all.

        Args:
            result: The outcome of the run, which the README states.
        """
        self.head.save(self.folder.head)
        temporary = self.folder.path / ".saving-adapter"
        shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed here
        self.folder.method.made_of().export.save(self.model, ADAPTER, temporary)
        self.prepared.tokenizer.save_pretrained(temporary)
        facts = Facts.of_run(self.folder, asdict(result))
        write_card(temporary, self.model, self.head, facts)
        checkpoint.publish(temporary, self.folder.adapter)

    def release(self) -> None:
        """Release the folder to other processes."""
        if self.lock is not None:
            self.lock.release()
