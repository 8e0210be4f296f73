"""Tasks: data, columns, collator and metric, by name, from a file or from the hub.

    task = load_task("stdlib-docs")
    prepared = task.prepare(tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(path, **prepared.model_kwargs)
    prepared.evaluate(model)  # {"accuracy": 0.06, "macro_f1": 0.01}

`docs/tasks.md` has the kinds, the options, the YAML form and what the errors mean.
"""

from __future__ import annotations

from rankwright.tasks.base import PreparedTask, Task
from rankwright.tasks.causal_lm import CausalLM
from rankwright.tasks.errors import TaskError
from rankwright.tasks.hub import Hub
from rankwright.tasks.kinds import KINDS
from rankwright.tasks.metrics import METRICS, Metric, Outcome
from rankwright.tasks.multi_label import MultiLabel
from rankwright.tasks.multiple_choice import MultipleChoice
from rankwright.tasks.regression import Regression
from rankwright.tasks.rows import Row
from rankwright.tasks.sequence_classification import SequenceClassification
from rankwright.tasks.sources import Files, Known, SetAside, Source, WithTest
from rankwright.tasks.spec import load_task, task_from_files, task_name
from rankwright.tasks.splits import Splits
from rankwright.tasks.stdlib_docs import StdlibDocs
from rankwright.tasks.token_classification import TokenClassification

__all__ = [
    "KINDS",
    "METRICS",
    "CausalLM",
    "Files",
    "Hub",
    "Known",
    "Metric",
    "MultiLabel",
    "MultipleChoice",
    "Outcome",
    "PreparedTask",
    "Regression",
    "Row",
    "SequenceClassification",
    "SetAside",
    "Source",
    "Splits",
    "StdlibDocs",
    "Task",
    "TaskError",
    "TokenClassification",
    "WithTest",
    "load_task",
    "task_from_files",
    "task_name",
]
