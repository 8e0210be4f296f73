"""The description of a run, and the folder it leaves."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rankwright.core.describe import registered_name
from rankwright.core.method import Method
from rankwright.core.slots import Slots
from rankwright.errors import MethodError
from rankwright.inits import Olora
from rankwright.job import RunFolder, TrainConfig
from rankwright.job.arguments import DERIVED, training_arguments
from rankwright.job.model_names import resolve_model
from rankwright.methods import BiDoRA, LoRA
from rankwright.procedures import Chain, Perturbation
from rankwright.tasks import (
    KINDS,
    CausalLM,
    MultipleChoice,
    SequenceClassification,
    Task,
    TaskError,
)

CONFIG = TrainConfig(model="m", task="stdlib-docs")


@dataclass(frozen=True, kw_only=True)
class Guest(Method):
    """A method that is not registered."""

    name: ClassVar[str] = "guest"

    def slots(self) -> Slots:
        return Slots()


@pytest.mark.parametrize(
    "option",
    [
        *("batch_size", "accumulation", "eval_batch_size", "keep_checkpoints"),
        *("steps", "train_rows", "eval_rows", "save_steps", "epochs"),
    ],
)
def test_counts_start_at_one(option: str) -> None:
    with pytest.raises(MethodError, match=f"TrainConfig.{option} = 0: expected"):
        TrainConfig(model="m", task="t", **{option: 0})


@pytest.mark.parametrize(
    "option",
    ["learning_rate", "head_learning_rate", "warmup", "weight_decay", "max_grad_norm", "seed"],
)
def test_nothing_is_negative(option: str) -> None:
    with pytest.raises(MethodError, match=f"TrainConfig.{option} = -1: expected"):
        TrainConfig(model="m", task="t", **{option: -1})


@pytest.mark.parametrize(
    "option",
    ["learning_rate", "head_learning_rate", "warmup", "weight_decay", "max_grad_norm", "epochs"],
)
def test_nothing_is_infinite(option: str) -> None:
    with pytest.raises(MethodError, match=f"TrainConfig.{option} = inf: expected a finite number"):
        TrainConfig(model="m", task="t", **{option: math.inf})


@pytest.mark.parametrize("name", ["model", "task", "data"])
def test_an_empty_text_is_not_a_name(name: str) -> None:
    with pytest.raises(MethodError, match=f"TrainConfig.{name} = '': expected a name or a path"):
        TrainConfig(**{"model": "m", "task": "t", name: ""})


def test_a_missing_file_is_not_a_data_set_on_the_hub() -> None:
    config = TrainConfig(model="m", data="data/train.xls", label_column="y", validation_share=0.1)
    with pytest.raises(TaskError, match=r"data/train\.xls: unknown extension '.xls'; expected"):
        config.make_task().load()


def test_a_strategy_may_be_no_which_yaml_reads_as_false(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, trainer={"eval_strategy": False, "tf32": False})
    arguments = training_arguments(config, RunFolder(tmp_path, config, LoRA()), rows=40)
    assert (arguments.eval_strategy, arguments.tf32) == ("no", False)


def test_there_is_one_source_of_data() -> None:
    for sources in ({}, {"task": "a", "data": "b"}):
        with pytest.raises(MethodError, match="exactly one of --task and --data"):
            TrainConfig(model="m", **sources)


def test_options_of_the_task_reach_it(rows_file: Path) -> None:
    config = TrainConfig(
        model="m",
        data=str(rows_file),
        text_column="sentence",
        label_column="topic",
        validation_data=str(rows_file),
        test_data=str(rows_file),
        metrics=["accuracy", "macro_f1"],
        primary_metric="macro_f1",
        max_length=16,
    )
    task = config.make_task()
    assert (task.name, task.max_length, task.primary_metric) == ("train", 16, "macro_f1")
    assert task.source.validation == task.source.test == rows_file
    with pytest.raises(TaskError, match="kind"):
        TrainConfig(model="m", data=str(rows_file)).make_task()


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_option_of_a_task_is_an_option_of_a_run(kind: type[Task]) -> None:
    own = {option.name for option in dataclasses.fields(kind)} - {"name", "source"}
    assert own <= {option.name for option in dataclasses.fields(TrainConfig)}


def test_options_of_every_kind_reach_the_task(rows_file: Path) -> None:
    data: dict[str, Any] = {"model": "m", "data": str(rows_file), "validation_share": 0.2}
    named = TrainConfig(**data, label_column="topic", label_names=["b", "a"]).make_task()
    assert isinstance(named, SequenceClassification)
    assert named.label_names == ("b", "a")
    choice = TrainConfig(
        **data,
        question_column="q",
        choices_column="c",
        prompt_template="{prompt}?",
        length_normalised=False,
    ).make_task()
    assert isinstance(choice, MultipleChoice)
    assert (choice.question_column, choice.choices_column) == ("q", "c")
    assert (choice.prompt_template, choice.length_normalised) == ("{prompt}?", False)
    text = TrainConfig(**data, completion_column="c", max_new_tokens=9).make_task()
    assert isinstance(text, CausalLM)
    assert text.max_new_tokens == 9


def test_a_description_has_the_options_that_differ_from_the_defaults() -> None:
    config = TrainConfig(model="m", task="t", steps=3, trainer={"report_to": "tensorboard"})
    assert config.as_dict() == {
        "model": "m",
        "task": "t",
        "steps": 3,
        "trainer": {"report_to": "tensorboard"},
    }


def test_a_run_folder_reads_what_it_wrote(tmp_path: Path) -> None:
    method = BiDoRA(r=2, upper_betas=(0.9, 0.98), rank_pattern={"query": 1})
    folder = RunFolder(tmp_path / "a run", TrainConfig(model="m", task="t", epochs=2), method)
    folder.write_description()
    read = RunFolder.read(tmp_path / "a run")
    assert read.config == folder.config
    assert read.options() == folder.options()
    assert isinstance(read.method, BiDoRA)
    assert folder.resume == f"rankwright train --config '{tmp_path}/a run/run.yaml' --resume"


def test_a_method_of_ones_own_is_found_again_by_its_module(tmp_path: Path) -> None:
    assert registered_name(LoRA) == "lora"
    assert registered_name(Guest) == f"{__name__}:Guest"
    RunFolder(tmp_path, CONFIG, Guest(r=3)).write_description()
    assert RunFolder.read(tmp_path).method == Guest(r=3)


def test_a_run_folder_keeps_the_plugged_parts(tmp_path: Path) -> None:
    method = LoRA(r=2).with_parts(init=Olora(), procedure=[Perturbation(rho=0.1), Chain(rounds=3)])
    folder = RunFolder(tmp_path, CONFIG, method)
    folder.write_description()
    assert "procedure:\n- name: flat\n  rho: 0.1\n" in folder.description.read_text("utf-8")
    assert RunFolder.read(tmp_path).method == method
    assert RunFolder.read(tmp_path).options() == folder.options()


def test_a_part_with_a_function_cannot_be_described(tmp_path: Path) -> None:
    method = LoRA().with_parts(procedure=Chain(round_rows=lambda run, round_: [0, 1]))
    with pytest.raises(MethodError, match="procedure 'chain': round_rows is a function, which"):
        RunFolder(tmp_path, CONFIG, method).write_description()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no run"),
        ("", "does not describe a run"),
        ("model: [\n", "does not describe a run"),
        ("model: m\ntask: t\n", "does not describe a run"),
        ("model: m\ntask: t\nspeed: 3\nmethod: {name: lora}\n", "speed"),
        ("model: m\ntask: t\nmethod: {name: lora, rank: 3}\n", "rank"),
        ("model: m\ntask: t\nmethod: {name: nora}\n", "unknown method 'nora'"),
    ],
)
def test_a_folder_without_a_run(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(MethodError, match=message):
        RunFolder.read(tmp_path)


def test_models_by_name() -> None:
    assert resolve_model("some/name") == "some/name"
    assert Path(resolve_model("minilm"), "config.json").is_file()


def test_arguments_of_the_trainer(tmp_path: Path) -> None:
    config = TrainConfig(
        model="m", task="t", epochs=2, batch_size=4, accumulation=2, schedule="cosine", warmup=3
    )
    arguments = training_arguments(config, RunFolder(tmp_path, config, LoRA()), rows=40)
    assert arguments.num_train_epochs == 2
    assert arguments.save_steps == 1  # a tenth of 10 steps
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.get_warmup_steps(10) == 3
    assert Path(arguments.output_dir) == tmp_path / "checkpoints"
    assert arguments.report_to == []


def test_a_share_of_the_steps_to_warm_up(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG, LoRA())
    assert training_arguments(CONFIG, folder, rows=40).get_warmup_steps(100) == 6


@pytest.mark.parametrize("name", sorted({*DERIVED, "learning_rate", "bf16"}))
def test_an_option_of_the_run_is_refused_as_an_argument_of_the_trainer(
    tmp_path: Path, name: str
) -> None:
    config = TrainConfig(model="m", task="t", trainer={name: 1})
    with pytest.raises(MethodError, match=rf"trainer.{name}: give it as the option \w+ instead"):
        training_arguments(config, RunFolder(tmp_path, config, LoRA()), rows=40)
