"""The baseline that ignores its input, and a check that a model does better.

The baseline predicts for every row the most frequent class, set of classes, tag or position of a
choice among the training rows, or the mean of their numbers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rankwright.tasks.base import PreparedTask
from rankwright.tasks.metrics import Form, Outcome, score
from rankwright.tasks.multiple_choice import MultipleChoice

ALIKE = 0.05
"""Numbers that vary less than this share of the targets' standard deviation count as equal."""


@dataclass(frozen=True)
class Constant:
    """The metrics of always giving the same answer.

    Attributes:
        answer: The answer in words, such as "not_entailment" or "the mean, 2.71".
        metrics: Its metrics on a split.
    """

    answer: str
    metrics: dict[str, float]


def score_constant(prepared: PreparedTask, outcomes: Mapping[Form, Outcome]) -> Constant | None:
    """Score the constant answer of the training rows on the rows of an outcome.

    Args:
        prepared: The task.
        outcomes: A model's outcomes on the rows; only their references are used.

    Returns:
        `None` for generated text and likelihoods, which have no such answer.
    """
    for form, outcome in outcomes.items():
        if (suggested := _constant_answer(prepared, form)) is not None:
            answer, given = suggested
            everywhere = [[given] * len(r) if form == "tags" else given for r in outcome.references]
            found = Outcome(everywhere, outcome.references)
            return Constant(answer, score(prepared.reported_metrics, {form: found}))
    return None


def are_alike(predictions: Sequence[Any], references: Sequence[Any]) -> bool:
    """Whether all predictions are equal (numbers nearly so) although the references differ."""
    if _numbers(references):
        spread = float(np.std(references))
        return spread > 0 and float(np.std(predictions)) < ALIKE * spread
    given, right = ({_hashable(each) for each in _flat(some)} for some in (predictions, references))
    return len(given) == 1 and len(right) > 1


def _flat(answers: Sequence[Any]) -> Iterable[Any]:
    """Return the tags of all rows in one sequence; other answers unchanged."""
    if any(isinstance(a, list) and any(isinstance(tag, str) for tag in a) for a in answers):
        return itertools.chain.from_iterable(answers)
    return answers


def _hashable(answer: Any) -> Hashable:
    return tuple(answer) if isinstance(answer, list) else cast("Hashable", answer)


def _numbers(references: Sequence[Any]) -> bool:
    return all(isinstance(reference, float) for reference in references)


def _constant_answer(prepared: PreparedTask, form: Form) -> tuple[str, Any] | None:
    """Return the constant answer of the training rows, in words and as a prediction."""
    if form == "classes" and isinstance(prepared.task, MultipleChoice):
        place = _most_frequent(map(prepared.task.answer, prepared.rows.train))
        return f"choice {place + 1}", place
    if form != prepared.form or form not in ("classes", "sets", "tags", "numbers"):
        return None
    targets = [np.asarray(target) for target in prepared.train["labels"]]
    answers = prepared.outcome(targets, targets).references
    if form == "numbers":
        mean = float(np.mean(answers))
        return f"the mean, {mean:.4g}", mean
    if form == "tags":
        tag = _most_frequent(itertools.chain.from_iterable(answers))
        return tag, tag
    names = prepared.labels.names  # type: ignore[attr-defined]  # both of these kinds have labels
    if form == "classes":
        index = _most_frequent(answers)
        return names[index], index
    found = _most_frequent(map(tuple, answers))
    named = [name for name, there in zip(names, found, strict=True) if there]
    return " and ".join(named) or "no label", list(found)


def _most_frequent(answers: Iterable[Any]) -> Any:
    """Return the most frequent answer; the smallest one of several."""
    counts = Counter(answers)
    most = max(counts.values())
    return min(answer for answer, count in counts.items() if count == most)
