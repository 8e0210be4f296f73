"""The model card of an adapter out of a study: what it is, how good, beside what, how trained."""

from __future__ import annotations

from rankwright.errors import MethodError
from rankwright.job.card import (
    Facts,
    Score,
    front_matter,
    introduction,
    loading_section,
    model_name,
    training_section,
    versions_text,
)
from rankwright.job.head import Head
from rankwright.study.records.records import RunRecord
from rankwright.study.report import words
from rankwright.study.report.environment import make_environment
from rankwright.study.report.results import MethodResults, StudyResults, TaskResults

# The class that loads the models of a kind of task, for older records that do not name it.
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
    """The run of the chosen adapter, and its card.

    Args:
        results: The results of the study.
        task: The task; may be left out where there is one.
        method: Label of the method; the one with the best mean of those whose seeds are all
            finished, if left out.
        seed: Seed of the run; the first, if left out. The seed with the best result would be
            chosen by the rows that are reported on.

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
        loading_section(head, facts.base),
        *([NO_LABELS] if unknown else []),
        text.strip(),
        training_section(facts),
    ]
    return run, "\n\n".join(sections) + "\n"


def _facts(run: RunRecord, method: MethodResults, task: TaskResults) -> Facts:
    """The facts of the run itself."""
    cost, split = run.cost, run.reported_split
    score = Score(split, run.metric, words.reported(task), run.before.get(run.metric), run.value)
    return Facts(
        name=run.name,
        base=model_name(run.model),
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
    )


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
