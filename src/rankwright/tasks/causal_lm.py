"""Language modelling: completions of prompts, or plain text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from rankwright.tasks import cells
from rankwright.tasks.base import Task
from rankwright.tasks.errors import TaskError, cell_error
from rankwright.tasks.metrics import METRICS, Form, final_number
from rankwright.tasks.rows import Row
from rankwright.tasks.splits import EqualInputsError, Splits
from rankwright.tasks.template import Template


@dataclass(frozen=True, kw_only=True)
class CausalLM(Task):
    """Completing prompts, with loss on the completions only; or plain text, with loss on all of it.

    Metrics over generated text (`bleu`, `exact_number`) complete every prompt greedily; `evaluate`
    reports them, a `Trainer` during training does not.

    Attributes:
        prompt_column: The prompt. `None` for plain text.
        prompt_template: The text before a completion, with `{prompt}` for the prompt and `{column}`
            for any other column; see `Template`.
        completion_column: The completion, or the plain text.
        references_column: A list of acceptable completions, in validation and test rows; the first
            one is the completion of such a row. `None` if every row has one completion.
        max_new_tokens: Maximum number of tokens to generate for a prompt.
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
        """The prompt and other columns in the template, or the plain text."""
        return self.template.named if self.prompt_column else (self.completion_column,)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The completion; plain text is its own target."""
        return (self.completion_column,) if self.prompt_column else ()

    @cached_property
    def template(self) -> Template:
        """The template of a prompt; a task of plain text has none."""
        return Template(self.prompt_template, str(self.prompt_column))

    @property
    def generates(self) -> bool:
        """Whether a metric needs generated text."""
        return any("texts" in METRICS[name].forms for name in self.metrics)

    def load(self) -> Splits:
        """Read and check all rows; if all prompts are equal, rows are held out by completion."""
        try:
            return super().load()
        except EqualInputsError:
            if self.prompt_column is None:
                raise
        splits = self._load(self.columns)
        size = len(splits.train) + len(splits.validation)
        names = ", ".join(self.input_columns)
        equal = f"all {size:,} prompts ({names}) are equal: rows are held out by their completions"
        return replace(splits, notices=(equal, *splits.notices))

    def references(self, row: Row) -> list[str]:
        """Return every acceptable completion of a row.

        Raises:
            TaskError: If there is none, or one has no number and `exact_number` is a metric.
        """
        column = self.references_column
        if column is not None and column in row.fields:
            texts = cells.strings(row, column)
        else:
            column = self.completion_column
            texts = [cells.text(row, column)]
        if "exact_number" in self.metrics and None in map(final_number, texts):
            fix = "Write the number after ####, or drop the metric exact_number."
            raise cell_error(row.where, column, texts[0], "a text with a final number", fix)
        return texts

    def check(self, row: Row) -> None:
        """Check the prompt and the completions."""
        self.shown(row)
        self.references(row)

    def shown(self, row: Row) -> str:
        """Return the text before a completion; an empty one for plain text."""
        return self.template.fill(row) if self.prompt_column else ""
