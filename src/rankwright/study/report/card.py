"""The model card of an adapter from a study: results, other methods beside it, training."""

from __future__ import annotations

from rankwright.core.export import Export
from rankwright.core.method_registry import get_method
from rankwright.errors import MethodError
from rankwright.job.card import (
    Facts,
    Score,
    front_matter,
    introduction,
    loading_section,
    training_section,
    versions_text,
)
from rankwright.job.head import Head
from rankwright.job.model_names import published_model
from rankwright.study.records.records import RunRecord
from rankwright.study.report import words
from rankwright.study.report.environment import make_environment
from rankwright.study.report.results import MethodResults, StudyResults, TaskResults

# The class that loads the model of a kind of task, for older records that do not name it.
CLASSES = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "multi_label": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "causal_lm": "AutoModelForCausalLM",
    "multiple_choice": "AutoModelForCausalLM",
}
NO_LABELS = (
    "Each `from_pretrained` of a transformers class also needs `num_labels`, the number of labels "
    "that it was trained with."
)


def render_card(
    results: StudyResults,
    *,
    task: str | None = None,
    method: str | None = None,
    seed: int | None = None,
) -> tuple[RunRecord, str]:
    """Return the run of the chosen adapter and its card.

    Args:
        results: The results of the study.
        task: The task; None for the only task.
        method: Label of the method; None for the best mean among the methods whose seeds are all
            finished.
        seed: Seed of the run; None for the first. Choosing the best seed would be choosing by the
            reported rows.

    Raises:
        MethodError: There is no such finished run.
    """
    of_task = _choose_task(results, task)
    of_method = _choose_method(of_task, method)
    run = _choose_run(of_method, seed)
    template = make_environment(autoescape=False).get_template("card.md.j2")
    text = template.render(
        study=results.study,
        failures=results.failures,
        task=of_task,
        method=of_method,
        run=run,
        words=words,
    )
    head, facts = run.head or Head(CLASSES[run.kind], {}), _facts(run, of_method, of_task)
    unknown = run.head is None and "Classification" in head.auto_class
    sections = [
        front_matter(facts, head),
        f"# {run.label} on {run.task}",
        introduction(facts),
        loading_section(head, facts.base, facts),
        *([NO_LABELS] if unknown else []),
        text.strip(),
        training_section(facts),
    ]
    return run, "\n\n".join(sections) + "\n"


def _facts(run: RunRecord, method: MethodResults, task: TaskResults) -> Facts:
    """Return the facts of the run itself."""
    cost, split = run.cost, run.reported_split
    score = Score(split, run.metric, words.reported(task), run.before.get(run.metric), run.value)
    return Facts(
        name=run.name,
        base=published_model(run.model),
        method=run.method,
        label=run.label,
        summary=method.method.summary,
        reference=method.method.reference,
        task=run.task,
        scores=[score],
        settings={**run.hyperparameters, **run.options},
        details={
            "seed": str(run.seed),
            "steps, passes": f"{cost.steps}, {cost.passes:g}",
            "trainable, stored parameters": (
                f"{cost.trainable_parameters:,}, {cost.stored_parameters:,}"
            ),
            "computed on": run.device,
            "versions": versions_text(run.versions),
            **{f"SHA-256 of the {name} rows": f"`{s}`" for name, s in run.data_sha256.items()},
        },
        export=_export_of(run.method),
    )


def _export_of(method: str) -> Export:
    """Return the export of a method by name; PEFT's LoRA if its package is not installed here."""
    try:
        return get_method(method)().slots().export
    except MethodError:
        return Export()


def _choose_task(results: StudyResults, name: str | None) -> TaskResults:
    tasks = {task.task.task: task for task in results.tasks}
    if name is None and len(tasks) == 1:
        return next(iter(tasks.values()))
    if name not in tasks:
        raise MethodError(f"--task {name}: choose one of the finished tasks, {', '.join(tasks)}")
    return tasks[name]


def _choose_method(task: TaskResults, label: str | None) -> MethodResults:
    methods = {method.label: method for method in task.methods}
    if label is None:
        whole = [method for method in task.methods if not method.missing]
        if not whole:
            raise MethodError(
                f"no method has finished all its seeds on {task.task.task}; choose one by "
                f"--method, of {', '.join(methods)}"
            )
        return whole[0]
    if label not in methods:
        raise MethodError(
            f"--method {label}: no finished run on {task.task.task}; there are {', '.join(methods)}"
        )
    return methods[label]


def _choose_run(method: MethodResults, seed: int | None) -> RunRecord:
    runs = {run.seed: run for run in method.runs}
    if seed is None:
        return method.runs[0]
    if seed not in runs:
        raise MethodError(
            f"--seed {seed}: no finished run of {method.label}; there are "
            f"{', '.join(map(str, runs))}"
        )
    return runs[seed]
