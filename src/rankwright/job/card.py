"""The README of an adapter: a summary, the calls that load it, its metrics and its training.

The loader inside transformers reads nothing about the head from an adapter's folder: it takes the
number of labels and their names as arguments, or from a config. A `config.json` beside the adapter
would make transformers look for the weights of a full model there, so the config of the base model,
including the labels, is in a subfolder that the calls name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from peft import PeftModel

from rankwright.core.describe import describe_method, registered_name
from rankwright.core.export import Export, Form
from rankwright.job.folder import RunFolder
from rankwright.job.head import Head
from rankwright.job.model_names import published_model
from rankwright.job.paths import FILES

README = "README.md"
CONFIG_FOLDER = "base_config"
ADAPTER = 'adapter = "."  # this folder, or its name on the hub'
NAMES_SHOWN = 20
"""Up to this many labels are arguments of the calls; more are read from `CONFIG_FOLDER`."""
PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForCausalLM": "text-generation",
}
"""Class that loads a model -> name of its task on the hub."""
HIDDEN = frozenset({"model", "task", *FILES, "output", "seed", "steps"})
"""Options that may be paths on the machine that trained, or that have a line of their own."""
ALWAYS = ("learning_rate", "schedule", "warmup", "weight_decay", "batch_size", "accumulation")
"""Options that are shown even if they have their defaults."""


@dataclass(frozen=True)
class Score:
    """A metric of one split.

    Attributes:
        split: "validation" or "test".
        metric: Name of the metric.
        rows: Number of rows; None if it is not known.
        before: Value before training; None if it was not measured.
        after: Value after training.
    """

    split: str
    metric: str
    rows: int | None
    before: float | None
    after: float


@dataclass(frozen=True)
class Facts:
    """The facts about one run that a card states.

    Attributes:
        name: Name of the adapter.
        base: The base model, without the folders of a machine.
        method: Registered name of the method.
        label: The method with the parts that are plugged onto it.
        summary: The method in one line.
        reference: Its paper.
        task: The task.
        scores: The metrics, the primary one first.
        settings: Fields of the method and options of the run; those of `HIDDEN` are not shown.
        details: Further facts about the training as texts by name, such as cost and versions.
        export: The slot of the method that says how the adapter loads.
    """

    name: str
    base: str
    method: str
    label: str
    summary: str
    reference: str
    task: str
    scores: Sequence[Score]
    settings: Mapping[str, Any]
    details: Mapping[str, str] = field(default_factory=dict)
    export: Export = field(default_factory=Export)

    @classmethod
    def of_run(cls, folder: RunFolder, result: Mapping[str, Any]) -> Facts:
        """Collect the facts of a run from its folder and its result.

        Args:
            folder: The run's folder, with `data.json`.
            result: A `RunResult` as a dictionary.
        """
        method, config = folder.method, folder.config
        return cls(
            name=f"{method.label}-{result['task'].replace('/', '-')}-{config.seed}",
            base=published_model(config.model),
            method=registered_name(type(method)),
            label=method.label,
            summary=method.summary,
            reference=method.reference,
            task=result["task"],
            scores=_scores(folder, result),
            settings={
                **describe_method(method),
                **{name: getattr(config, name) for name in ALWAYS},
                **config.as_dict(),
            },
            details=_details(folder, result),
            export=method.made_of().export,
        )


def write_card(
    folder: Path, model: PeftModel, head: Head, facts: Facts, lora: Form | None = None
) -> None:
    """Write `README.md`, and the base model's config where the head needs arguments.

    Args:
        folder: The adapter's folder; PEFT's blank README is replaced.
        model: The adapted model.
        head: The class and arguments that its base model was loaded with.
        facts: The run.
        lora: The form of a plain LoRA, if the folder holds one instead of the adapter as trained.
    """
    base = model.get_base_model()
    if lora is not None:
        facts = replace(facts, export=Export())
    if head.model_kwargs:
        base.config.save_pretrained(folder / CONFIG_FOLDER)
    sections = [
        front_matter(facts, head),
        f"# {facts.label} on {facts.task}",
        introduction(facts),
        *([] if lora is None else [lora_note(lora)]),
        loading_section(head, base.name_or_path, facts),
        _results_section(facts),
        training_section(facts),
    ]
    (folder / README).write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def front_matter(facts: Facts, head: Head) -> str:
    """Return the metadata that the hub reads, as a YAML block."""
    pipeline = PIPELINES.get(head.auto_class)
    first = next(iter(facts.scores), None)
    results: dict[str, Any] = {}
    if first is not None and pipeline is not None and math.isfinite(first.after):
        result = EvalResult(
            task_type=pipeline,
            dataset_type=facts.task,
            dataset_name=facts.task,
            dataset_split=first.split,
            metric_type=first.metric,
            metric_value=first.after,
        )
        results = {"model_name": facts.name, "eval_results": [result]}
    data = ModelCardData(
        base_model=facts.base,
        library_name="peft",
        pipeline_tag=pipeline,
        tags=["rankwright", facts.method],
        metrics=list(dict.fromkeys(score.metric for score in facts.scores)) or None,
        **results,
    )
    return f"---\n{data.to_yaml()}\n---"


def introduction(facts: Facts) -> str:
    """Return an introduction of the adapter in a sentence or two."""
    loading = "It loads with `peft`; rankwright is not needed."
    if not facts.export.loads_with_peft:
        loading = "It loads with rankwright; `peft` alone does not give the trained model."
    return (
        f"An adapter of {facts.base}, trained with rankwright: {facts.summary} "
        f"({facts.reference}). {loading}"
    )


def lora_note(form: Form) -> str:
    """Return the note on a folder that holds a plain LoRA instead of the adapter as trained."""
    loss = f" It is approximate: {form.reason}." if form.accuracy == "approximate" else ""
    return (
        f"This is the adapter exported as a plain LoRA.{loss} The figures below are those of the "
        "adapter as it was trained."
    )


def training_section(facts: Facts) -> str:
    """Return a table of the settings and the cost of training."""
    settings = {
        name: parameter(value)
        for name, value in sorted(facts.settings.items())
        if name not in HIDDEN and value not in (None, {}, [])
    }
    rows = [f"| {name} | {cell(text)} |" for name, text in {**settings, **facts.details}.items()]
    return "\n".join(["## Training", "", "| | |", "| --- | --- |", *rows])


def _results_section(facts: Facts) -> str:
    header = ["| | rows | before training | after |", "| --- | ---: | ---: | ---: |"]
    rows = [
        f"| {score.split} {cell(score.metric)} | {_number(score.rows, ',')} | "
        f"{_number(score.before, '.4f')} | {score.after:.4f} |"
        for score in facts.scores
    ]
    before = "Before training the adapter changes nothing; a new head is random."
    return "\n".join(["## Results", "", *header, *rows, "", before])


def _scores(folder: RunFolder, result: Mapping[str, Any]) -> list[Score]:
    """Return the metrics of a run, the primary one first."""
    splits = folder.splits() if folder.data.is_file() else {}
    scores = []
    for split, before, after in (
        ("validation", result["before"], result["after"]),
        ("test", {}, result.get("test", {})),
    ):
        rows = splits.get(split, {}).get("rows")
        reported = rows and min(rows, folder.config.eval_rows or rows)
        scores += [
            Score(split, name, reported, before.get(name), math.nan if value is None else value)
            for name, value in after.items()
        ]
    return sorted(scores, key=lambda score: score.metric != result["primary_metric"])


def _details(folder: RunFolder, result: Mapping[str, Any]) -> dict[str, str]:
    cost = result["cost"]
    return {
        "method": folder.method.label,
        "seed": str(folder.config.seed),
        "training rows": f"{result['train_rows']:,}",
        "steps, passes": f"{cost['steps']:,}, {cost['passes']:,g}",
        "trainable, stored parameters": (
            f"{cost['trainable_parameters']:,}, {cost['stored_parameters']:,}"
        ),
        "time of training, of a step": (
            f"{cost['training_seconds']:.3g} s, {cost['median_step_seconds']:.3g} s"
        ),
        "peak memory": f"{cost['peak_memory_bytes'] / 2**20:,.0f} MiB",
        "versions": versions_text(result["versions"]),
    }


def versions_text(versions: Mapping[str, str]) -> str:
    """Return versions as in `python 3.11.7, torch 2.13.0`."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def parameter(value: object) -> str:
    """Return a hyperparameter as a text, with floats to three digits."""
    if value is None:
        return "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def cell(text: str) -> str:
    """Return the text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def loading_section(head: Head, base: str, facts: Facts | None = None) -> str:
    """Return a Markdown section with the calls that load an adapter.

    Args:
        head: Class and labels that the base model was loaded with.
        base: Folder or hub name of the base model.
        facts: The run; None for an adapter that loads with PEFT.
    """
    names = [head.auto_class]
    if len(head.model_kwargs.get("id2label", ())) > NAMES_SHOWN:
        arguments = [f'config=AutoConfig.from_pretrained(adapter, subfolder="{CONFIG_FOLDER}")']
        names.insert(0, "AutoConfig")
    else:
        arguments = [f"{name}={value!r}" for name, value in head.model_kwargs.items()]
    if head.replaces:
        arguments.append("ignore_mismatched_sizes=True")
    imports = f"from transformers import {', '.join(names)}"
    base_call = _call("base", head.auto_class, repr(base), arguments)
    if facts is not None and not facts.export.loads_with_peft:
        blocks = _with_rankwright(imports, base_call, facts.method)
    else:
        model_call = _call("model", head.auto_class, "adapter", arguments)
        blocks = [*_with_peft(imports, base_call), "", *_with_transformers(imports, model_call)]
    tokenizer = "The tokenizer is in the folder: `AutoTokenizer.from_pretrained(adapter)`."
    return "\n".join(["## Loading", "", *blocks, "", tokenizer])


def _with_peft(imports: str, base_call: list[str]) -> list[str]:
    return [
        "With PEFT:",
        "",
        "```python",
        "from peft import PeftModel",
        imports,
        "",
        ADAPTER,
        *base_call,
        "model = PeftModel.from_pretrained(base, adapter)",
        "```",
    ]


def _with_transformers(imports: str, model_call: list[str]) -> list[str]:
    return [
        "With transformers, which takes the base model's name from `adapter_config.json` and needs "
        "`peft` too:",
        "",
        "```python",
        imports,
        "",
        ADAPTER,
        *model_call,
        "```",
    ]


def _with_rankwright(imports: str, base_call: list[str], method: str) -> list[str]:
    return [
        "With rankwright:",
        "",
        "```python",
        imports,
        "",
        "from rankwright.job import load_adapter",
        "",
        ADAPTER,
        *base_call,
        f'model = load_adapter(base, adapter, "{method}")',
        "```",
    ]


def _call(name: str, auto_class: str, first: str, arguments: list[str]) -> list[str]:
    """Return the lines of a call of `from_pretrained`, with a line for each argument."""
    if not arguments:
        return [f"{name} = {auto_class}.from_pretrained({first})"]
    inside = [f"    {argument}," for argument in (first, *arguments)]
    return [f"{name} = {auto_class}.from_pretrained(", *inside, ")"]
