"""The description of one run: the options of `rankwright train`, and the keys of its YAML."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from rankwright.core.fields import check_field
from rankwright.errors import MethodError
from rankwright.job.relocation import absolute_options
from rankwright.tasks import SetAside, Task, load_task, task_from_files

_TASK_OPTIONS = (
    "delimiter",
    "kind",
    "text_column",
    "text_pair_column",
    "label_column",
    "label_names",
    "tokens_column",
    "tags_column",
    "prompt_column",
    "prompt_template",
    "completion_column",
    "references_column",
    "max_new_tokens",
    "question_column",
    "choices_column",
    "length_normalised",
    "validation_share",
    "max_length",
    "metrics",
    "primary_metric",
    "skip_bad_rows",
)

DATA_OPTIONS = (
    "task",
    "data",
    "validation_data",
    "test_data",
    "held_out_data",
    *_TASK_OPTIONS,
)
"""Options that determine the rows of a run."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        model: Folder or hub name of a pretrained model; "minilm" is all-MiniLM-L6-v2 from the
            package of the extra "demo".
        task: "stdlib-docs", "glue/<name>", a hub data set as owner/name, or a task file (YAML).
        data: Instead of a task: the training file (.jsonl, .json, .csv, .tsv, .conll or .txt, also
            .gz, or .parquet), several, or a pattern such as 'part-*.csv'.
        validation_data: File to evaluate on; without it, give validation_share.
        test_data: A second file to evaluate on, after training.
        held_out_data: File that a bilevel method learns its upper level from; without one, it holds
            out rows of the training file.
        delimiter: Character between the cells of CSV files, or tab; inferred from the header by
            default.
        kind: Kind of task (sequence_classification, regression, multi_label, token_classification,
            causal_lm, multiple_choice); inferred from the columns by default.
        text_column: Column of the text.
        text_pair_column: Column of the second text of a pair.
        label_column: Column of the label.
        label_names: Every label in the order of the indices, if the data does not determine it.
        tokens_column: Column of the words of token classification.
        tags_column: Column of the tags of these words.
        prompt_column: Column of the prompt of a causal language model.
        prompt_template: Text around a prompt or a question, with {prompt} as its placeholder and
            {column} for any other column; {{ and }} are braces.
        completion_column: Column of the completion; without a prompt, of the text.
        references_column: Column of all acceptable completions, for evaluation.
        max_new_tokens: Maximum number of tokens of a generated completion.
        question_column: Column of the question of multiple choice.
        choices_column: Column of the list of choices.
        length_normalised: Whether to score a choice by the mean of its tokens instead of their sum.
        validation_share: Share of the training rows to hold out for validation, without a file.
        max_length: Maximum number of tokens of a row; longer rows are truncated.
        metrics: Name of the metric, or a list of names.
        primary_metric: Metric that a result is judged by.
        skip_bad_rows: Leave out rows with empty cells, unknown labels and the like, and list them,
            instead of stopping with an error.
        tuning_share: For choosing hyperparameters: hold out this share of the training rows, and
            evaluate on it instead of the validation and test rows.
        train_rows: Number of training rows, the first of a seeded shuffle; None for all.
        output: Folder of the run; by default runs/<method>-<task>-<seed>.
        seed: Seed of all random numbers.
        learning_rate: Peak learning rate.
        head_learning_rate: Peak learning rate of a new head, which starts from random weights; None
            for `learning_rate`.
        schedule: Learning-rate schedule by its transformers name.
        warmup: Warmup of the learning rate, as a share of the steps (below 1) or a number of steps.
        weight_decay: Decoupled weight decay of the matrices.
        epochs: Passes over the training rows; a method with phases divides the steps among them.
        steps: Optimizer steps, instead of epochs.
        batch_size: Rows per micro-batch and device.
        accumulation: Micro-batches per optimizer step.
        max_grad_norm: Global norm that gradients are clipped to; 0 for no clipping.
        bf16: Compute under bfloat16 autocast.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        eval_batch_size: Rows per batch in evaluation.
        eval_rows: Number of rows to evaluate on, drawn by class if there are classes, and the same
            for every method and seed; None for all.
        save_steps: Optimizer steps between two checkpoints; None for a tenth of the run.
        keep_checkpoints: Number of checkpoints to keep.
        trainer: Further fields of `transformers.TrainingArguments` by name, such as report_to.
    """

    model: str
    task: str | None = None
    data: str | list[str] | None = None
    validation_data: str | list[str] | None = None
    test_data: str | list[str] | None = None
    held_out_data: str | list[str] | None = None
    delimiter: str | None = None
    kind: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    label_names: list[str] | None = None
    tokens_column: str | None = None
    tags_column: str | None = None
    prompt_column: str | None = None
    prompt_template: str | None = None
    completion_column: str | None = None
    references_column: str | None = None
    max_new_tokens: int | None = None
    question_column: str | None = None
    choices_column: str | None = None
    length_normalised: bool | None = None
    validation_share: float | None = None
    max_length: int | None = None
    metrics: str | list[str] | None = None
    primary_metric: str | None = None
    skip_bad_rows: bool | None = None
    tuning_share: float | None = None
    train_rows: int | None = None
    output: str | None = None
    seed: int = 0
    learning_rate: float = 5e-4
    head_learning_rate: float | None = None
    schedule: str = "linear"
    warmup: float = 0.06
    weight_decay: float = 0.0
    epochs: float = 3.0
    steps: int | None = None
    batch_size: int = 16
    accumulation: int = 1
    max_grad_norm: float = 1.0
    bf16: bool = False
    gradient_checkpointing: bool = False
    eval_batch_size: int = 64
    eval_rows: int | None = None
    save_steps: int | None = None
    keep_checkpoints: int = 2
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make paths absolute, and check every value that needs no data.

        Raises:
            MethodError: A value is out of its range, or there is not exactly one source of data.
        """
        for name in ("model", "task", "data"):
            check_field(self, name, getattr(self, name) != "", "a name or a path")
        for name, value in absolute_options(vars(self)).items():
            object.__setattr__(self, name, value)
        for name in ("batch_size", "accumulation", "eval_batch_size", "keep_checkpoints"):
            check_field(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("train_rows", "eval_rows", "steps", "save_steps"):
            value = getattr(self, name)
            check_field(self, name, value is None or value >= 1, "at least 1, or None")
        check_field(self, "seed", 0 <= self.seed < 2**32, "an integer of at least 0, below 2**32")
        for name in ("learning_rate", "warmup", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            check_field(self, name, 0 <= value < math.inf, "a finite number of at least 0")
        head = self.head_learning_rate
        check_field(
            self,
            "head_learning_rate",
            head is None or 0 <= head < math.inf,
            "a finite number of at least 0, or None",
        )
        share = self.tuning_share
        check_field(
            self, "tuning_share", share is None or 0 < share < 1, "a share between 0 and 1, or None"
        )
        check_field(self, "epochs", 0 < self.epochs < math.inf, "a finite number above 0")
        if (self.task is None) == (self.data is None):
            raise MethodError("give exactly one of --task and --data, to say what to train on")

    def make_task(self) -> Task:
        """Return the task; its data is not read yet.

        Raises:
            TaskError: There is no such task, or an option does not fit it.
        """
        options = {
            name: value for name in _TASK_OPTIONS if (value := getattr(self, name)) is not None
        }
        for split in ("validation", "test"):
            if (path := getattr(self, f"{split}_data")) is not None:
                options[split] = path
        if self.data is None:
            task = load_task(str(self.task), **options)
        else:  # never the name of a task or of a data set, even if there is no such file
            task = task_from_files(self.data, **options)
        if self.tuning_share is None:
            return task
        source = SetAside(
            source=task.source, validation_share=self.tuning_share, seed=task.source.seed + 1
        )
        return dataclasses.replace(task, source=source)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as YAML values."""
        values = {}
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            default = (
                option.default_factory()
                if option.default_factory is not dataclasses.MISSING
                else option.default
            )
            if value != default:
                values[option.name] = value
        return values
