"""The Trainer of a run."""

from __future__ import annotations

import torch
from datasets import Dataset
from peft import PeftModel
from transformers.trainer_callback import PrinterCallback

from rankwright.errors import MethodError
from rankwright.job.arguments import (
    check_best,
    check_buildable,
    refusal,
    steps_of,
    training_arguments,
)
from rankwright.job.config import TrainConfig
from rankwright.job.data import RunData
from rankwright.job.folder import RunFolder
from rankwright.job.observing import PhaseNote
from rankwright.tasks import PreparedTask
from rankwright.training import Trainer


def build_trainer(model: PeftModel, data: RunData, folder: RunFolder) -> Trainer:
    """Build the Trainer of a run; callbacks of the caller report its progress.

    Raises:
        MethodError: An argument is unknown or out of its range, or does not fit the method.
    """
    prepared = data.prepared
    rows = _train_rows(prepared, folder.config)
    shown = prepared.dataset("validation")
    if folder.config.eval_rows is not None:
        shown = shown.select(prepared.draw_rows("validation", folder.config.eval_rows))
    arguments = training_arguments(folder.config, folder, len(rows))
    try:
        check_buildable(arguments, model, steps_of(folder.config, len(rows)))
        check_best(arguments, prepared)
        trainer = Trainer(
            model,
            arguments,
            train_dataset=rows,
            eval_dataset=shown,
            data_collator=prepared.collator,
            compute_metrics=prepared.compute_metrics,
            preprocess_logits_for_metrics=prepared.preprocess_logits_for_metrics,
            processing_class=prepared.tokenizer,
            method=folder.method,
            held_out_dataset=data.held_out,
            head_learning_rate=folder.config.head_learning_rate,
        )
    except MethodError:
        raise
    except (TypeError, ValueError, RuntimeError, ImportError) as error:  # an unknown report_to, say
        raise MethodError(refusal(error)) from error
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(PhaseNote(trainer.run))
    return trainer


def _train_rows(prepared: PreparedTask, config: TrainConfig) -> Dataset:
    rows = prepared.dataset("train")
    if config.train_rows is None:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    return rows.select(order[: config.train_rows].tolist())
