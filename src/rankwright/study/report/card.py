"""The model card of an adapter out of a study: what it is, how good, beside what, how trained."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from rankwright.core.errors import MethodError
from rankwright.study.figures import MethodFigures, StudyFigures, TaskFigures
from rankwright.study.records import RunRecord
from rankwright.study.report import words
from rankwright.study.report.environment import environment

# The hub's name of each kind of task, and the class of transformers that loads its models.
KINDS = {
    "sequence_classification": ("text-classification", "AutoModelForSequenceClassification"),
    "multi_label": ("text-classification", "AutoModelForSequenceClassification"),
    "regression": ("text-classification", "AutoModelForSequenceClassification"),
    "token_classification": ("token-classification", "AutoModelForTokenClassification"),
    "causal_lm": ("text-generation", "AutoModelForCausalLM"),
    "multiple_choice": ("multiple-choice", "AutoModelForMultipleChoice"),
}
# Options that may be places on the machine that trained, or that have a line of their own.
HIDDEN = (
    "model", "task", "data", "validation_data", "test_data", "held_out_data", "output", "seed",
    "steps",
)  # fmt: skip


def model_card(
    figures: StudyFigures,
    *,
    task: str | None = None,
    method: str | None = None,
    seed: int | None = None,
) -> tuple[RunRecord, str]:
    """The run of the chosen adapter, and its card.

    Args:
        figures: The study.
        task: The task; may be left out where there is one.
        method: Label of the method; the one with the best mean of those whose seeds are all
            finished, if left out.
        seed: Seed of the run; the first, if left out. The seed with the best result would be
            chosen by the rows that are reported on.

    Raises:
        MethodError: There is no such finished run.
    """
    of_task = _chosen_task(figures, task)
    of_method = _chosen_method(of_task, method)
    run = _chosen_run(of_method, seed)
    settings = {**run.hyperparameters, **run.options}
    template = environment(autoescape=False).get_template("card.md.j2")
    body = template.render(
        study=figures.study,
        failures=figures.failures,
        task=of_task,
        method=of_method,
        run=run,
        settings={k: v for k, v in settings.items() if k not in HIDDEN and v not in (None, {})},
        base=_model_name(run.model),
        auto_class=KINDS[run.kind][1],
        words=words,
    )
    card = ModelCard(f"---\n{_metadata(run).to_yaml()}\n---\n\n{body}")
    return run, str(card)


def _metadata(run: RunRecord) -> ModelCardData:
    result = EvalResult(
        task_type=KINDS[run.kind][0],
        dataset_type=run.task,
        dataset_name=run.task,
        dataset_split=run.reported_split,
        metric_type=run.metric,
        metric_value=run.value,
    )
    return ModelCardData(
        model_name=run.name,
        base_model=_model_name(run.model),
        library_name="peft",
        pipeline_tag=KINDS[run.kind][0],
        tags=["rankwright", run.method],
        metrics=[run.metric],
        eval_results=[result],
    )


def _model_name(model: str) -> str:
    """A name on the hub as it is; of a folder, which is of one machine, the last part."""
    if model == "minilm":
        return "sentence-transformers/all-MiniLM-L6-v2"
    path = Path(model)  # a name on the hub has one slash at most, and begins with neither . nor ~
    is_folder = model.startswith((".", "~", "/")) or model.count("/") > 1 or path.exists()
    return path.name if is_folder else model


def _chosen_task(figures: StudyFigures, name: str | None) -> TaskFigures:
    tasks = {task.task.task: task for task in figures.tasks}
    if name is None and len(tasks) == 1:
        return next(iter(tasks.values()))
    if name not in tasks:
        raise MethodError(f"--task {name}: choose one of the finished tasks, {', '.join(tasks)}")
    return tasks[name]


def _chosen_method(task: TaskFigures, label: str | None) -> MethodFigures:
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


def _chosen_run(method: MethodFigures, seed: int | None) -> RunRecord:
    runs = {run.seed: run for run in method.runs}
    if seed is None:
        return method.runs[0]
    if seed not in runs:
        raise MethodError(
            f"--seed {seed}: no finished run of {method.label}; there are "
            f"{', '.join(map(str, runs))}"
        )
    return runs[seed]
