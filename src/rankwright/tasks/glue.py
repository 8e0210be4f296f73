"""Columns, classes and metrics of the GLUE tasks on the hub (`nyu-mll/glue`)."""

from __future__ import annotations

from rankwright.tasks.errors import TaskError, suggestion

_NLI = ("entailment", "not_entailment")
_PARAPHRASE = ("not_equivalent", "equivalent")
_MNLI = ("entailment", "neutral", "contradiction")

TASKS: dict[str, tuple[str, str | None, tuple[str, ...] | None, tuple[str, ...]]] = {
    "cola": ("sentence", None, ("unacceptable", "acceptable"), ("matthews", "accuracy")),
    "sst2": ("sentence", None, ("negative", "positive"), ("accuracy",)),
    "mrpc": ("sentence1", "sentence2", _PARAPHRASE, ("accuracy", "binary_f1")),
    "stsb": ("sentence1", "sentence2", None, ("pearson", "spearman")),
    "qqp": ("question1", "question2", ("not_duplicate", "duplicate"), ("accuracy", "binary_f1")),
    "mnli": ("premise", "hypothesis", _MNLI, ("accuracy",)),
    "qnli": ("question", "sentence", _NLI, ("accuracy",)),
    "rte": ("sentence1", "sentence2", _NLI, ("accuracy",)),
    "wnli": ("sentence1", "sentence2", ("not_entailment", "entailment"), ("accuracy",)),
}
"""First text, second text, classes (None: a number) and metrics of the GLUE paper, by name."""

GLUE = frozenset(TASKS)


def glue_options(name: str) -> dict[str, object]:
    """Return the options of a GLUE task, as `load_task` takes them.

    The test split is left out, since its labels are not public. MNLI validates on the matched part.

    Raises:
        TaskError: If GLUE has no such task.
    """
    if name not in TASKS:
        raise TaskError(
            f"task 'glue/{name}' is unknown; expected glue/ and one of {', '.join(TASKS)}."
            f"{suggestion(name, TASKS)}"
        )
    text, pair, labels, metrics = TASKS[name]
    validation = "validation_matched" if name == "mnli" else "validation"
    options: dict[str, object] = {
        "name": f"glue/{name}",
        "kind": "regression" if labels is None else "sequence_classification",
        "hub": "nyu-mll/glue",
        "hub_config": name,
        "hub_splits": {"train": "train", "validation": validation},
        "text_column": text,
        "text_pair_column": pair,
        "metrics": metrics,
    }
    return options if labels is None else options | {"label_names": labels}
