"""Infer the kind of a task and its columns from the usual column names of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rankwright.tasks.errors import TaskError, listing

ANSWERS = ("label", "answer", "answerKey")
CHAT = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Layout:
    """Columns that determine a kind.

    Attributes:
        kind: The kind.
        columns: Option that names a column -> the column.
        alone: Whether the file must have no other column.
        optional: Further column -> options to set if a file has it.
    """

    kind: str
    columns: Mapping[str, str]
    alone: bool = False
    optional: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def fits(self, found: Sequence[str], given: Mapping[str, str]) -> bool:
        """Whether a file has these columns, under the user's names if given.

        Args:
            found: The columns of the file.
            given: Columns by the options that the user has set.
        """
        own = {**self.columns, **{name: c for name, c in given.items() if name in self.columns}}
        others = given.keys() - self.columns.keys() - {"text_pair_column", "references_column"}
        return (
            {*own.values()} <= {*found}
            and not others
            and (not self.alone or len(found) == len(self.columns))
        )

    def options(self, found: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
        """Return the options that name these columns, except those that the user has set."""
        options = dict(self.columns)
        for column, more in self.optional.items():
            if column in found:
                options |= more
        return {name: value for name, value in options.items() if name not in given}


LAYOUTS = (
    Layout("sequence_classification", {"text_column": "text", "label_column": "label"}),
    # alone: beside other columns, such as a question, a sentence may be one of a pair
    Layout(
        "sequence_classification", {"text_column": "sentence", "label_column": "label"}, alone=True
    ),
    Layout("multi_label", {"text_column": "text", "label_column": "labels"}),
    *(
        Layout("token_classification", {"tokens_column": "tokens", "tags_column": tags})
        for tags in ("tags", "ner_tags")
    ),
    *(
        Layout(
            "multiple_choice",
            {"question_column": question, "choices_column": "choices", "label_column": answer},
        )
        for question in ("question", "question_stem")
        for answer in ANSWERS
    ),
    Layout("causal_lm", {"prompt_column": "prompt", "completion_column": "completion"}),
    Layout(
        "causal_lm",
        {"prompt_column": "instruction", "completion_column": "output"},
        optional={"input": {"prompt_template": "{prompt}\n{input}\n"}},
    ),
    Layout("causal_lm", {"completion_column": "text"}, alone=True),
)
USUAL = "text,label; text,labels; tokens,tags; question,choices,label; prompt,completion"


def layout_of(
    found: Sequence[str], given: Mapping[str, str], kind: str | None = None
) -> Layout | None:
    """Return the layout of a file; `None` if its columns fit no kind, or several.

    Args:
        found: The columns of the file.
        given: Columns by the options that the user has set.
        kind: The kind, if it is known.
    """
    fitting = [layout for layout in LAYOUTS if layout.fits(found, given)]
    fitting = [layout for layout in fitting if kind in (None, layout.kind)]
    kinds = {layout.kind for layout in fitting}
    return fitting[0] if len(kinds) == 1 else None


def _delimiter_advice(found: Sequence[str]) -> str:
    """Return advice about a single column such as `text:label`; nothing if it looks right."""
    if len(found) > 1 or found[0].replace("_", "").isalnum():
        return ""
    return " If this is more than one column, say what separates cells: --delimiter."


def unknown_layout(path: Path, found: Sequence[str]) -> TaskError:
    """Return the error about a file whose columns fit no kind or several, with a remedy."""
    if any(column in CHAT for column in found):
        return TaskError(
            f"{path}: the columns are {listing(found)}. Conversations are not read yet: write each "
            "as a prompt and a completion, in columns of these names."
        )
    if all(column.isdecimal() for column in found):
        return TaskError(
            f"{path}: the first of its {len(found)} columns counts the words, as in CoNLL-U. Name "
            "words and tags by the number of their columns: --tokens-column 2 --tags-column 4."
        )
    several = [layout for layout in LAYOUTS if layout.fits(found, {})]
    if several:
        kinds = " or ".join(dict.fromkeys(layout.kind for layout in several))
        return TaskError(
            f"{path}: the columns are {listing(found)}, which may be {kinds}. Say which: --kind."
        )
    return TaskError(
        f"{path}: the columns are {listing(found)}, which do not determine the kind of task; "
        f"usual ones are {USUAL}.{_delimiter_advice(found)} Name them: --text-column, "
        "--label-column and, for pairs, --text-pair-column; --tokens-column and --tags-column; "
        "--question-column, --choices-column and --label-column; or --prompt-column and "
        "--completion-column. For numbers add --kind regression, for several labels per text "
        "--kind multi_label."
    )
