"""Errors speak before any training time is spent: what, which value, what was expected."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from method_table import FACTORED, METHODS, OF_EVERY_SORT, STEPS, TABLE, method_named
from models import classification_rows, same_bits
from rankwright.core.loop import Loop
from rankwright.core.method_registry import available_methods
from rankwright.core.slots import Procedure
from rankwright.errors import MethodError, TrainingError
from rankwright.kernels import parameter_epoch
from rankwright.procedures.perturbation import Perturbation
from rankwright.training import Trainer
from rankwright.training.refusals import check_arguments
from trainers import adapter, arguments, base_model, build_trainer

SPLIT = ("autolora", "bidora", "bilora", "diffora")
"""Methods that divide the training rows between two levels."""

every_method = pytest.mark.parametrize("name", METHODS)
WITH_PROCEDURE = [n for n in METHODS if type(method_named(n).slots().procedure) is not Procedure]
with_procedure = pytest.mark.parametrize("name", WITH_PROCEDURE)


# Fields ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"r": 0}, r"\.r = 0: expected an integer of at least 1"),
        ({"lora_alpha": 0}, r"\.lora_alpha = 0: expected a number above 0"),
        ({"lora_dropout": -0.1}, r"\.lora_dropout = -0\.1: expected a probability"),
        ({"rank_pattern": {"query": 0}}, r"rank_pattern\['query'\] = 0: expected"),
    ],
)
@every_method
def test_a_wrong_shared_field(name: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        method_named(name, **wrong)


@pytest.mark.parametrize("name", [name for name in METHODS if TABLE[name].wrong])
def test_a_wrong_field_of_its_own(name: str) -> None:
    ((field, value),) = TABLE[name].wrong.items()
    with pytest.raises(MethodError, match=rf"\.{field} = {re.escape(repr(value))}: expected"):
        method_named(name, **{field: value})


@every_method
def test_an_unknown_field(name: str) -> None:
    with pytest.raises(TypeError, match="rnak"):
        available_methods()[name](rnak=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 33}, r"rank (33|50) is larger than the layer .* \(\d+ x \d+\); choose r <= 32"),
        ({"target_modules": ["nope"]}, r"target_modules=\['nope'\].*Linear modules .*query"),
        ({"rank_pattern": {"nope": 2}}, "rank_pattern key 'nope' matches no adapted module"),
        ({"alpha_pattern": {"nope": 2.0}}, "alpha_pattern key 'nope' matches no adapted module"),
    ],
)
@pytest.mark.parametrize("name", FACTORED)
def test_what_does_not_fit_the_model(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        method_named(name, **fields).apply(base_model("bert"))


# Data --------------------------------------------------------------------------------------------


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(classification_rows(64))


def test_a_bilevel_loop_without_a_second_split() -> None:
    method = method_named("bidora").with_parts(procedure=Perturbation(rho=0.1))
    model = method.apply(base_model("bert"))
    with pytest.raises(MethodError, match="learns from a second split: pass held_out="):
        Loop(model, method, total_steps=STEPS)


def test_a_second_split_that_nobody_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"held_out_dataset": classification_rows(4)}
    for name, warnings in {
        "lora": ["lora learns from the training rows alone"],
        "bidora": [],
    }.items():
        caplog.clear()
        build_trainer(method_named(name), "bert", tmp_path, options=options)
        said = [record.getMessage().split(";")[0] for record in caplog.records]
        assert [text for text in said if "rows alone" in text] == warnings


def test_arguments_of_an_optimizer_that_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = {"lora": 0, "lora_plus": 0, "lora_pro": 1, "lora_rite": 1}
    for name, count in expected.items():
        caplog.clear()
        build_trainer(method_named(name), "bert", tmp_path, adam_beta1=0.8).train()
        said = "brings its own optimizer: adam_beta1 of the Trainer's arguments"
        assert sum(said in record.getMessage() for record in caplog.records) == count
    caplog.clear()
    build_trainer(method_named("lora_pro"), "bert", tmp_path).train()
    assert "its own optimizer" not in caplog.text


@pytest.mark.parametrize("name", SPLIT)
def test_a_bilevel_trainer_without_rows_to_divide(name: str, tmp_path: Path) -> None:
    trainer = build_trainer(
        method_named(name), "bert", tmp_path, options={"train_dataset": Stream()}
    )
    with pytest.raises(MethodError, match="a Stream has no length; load it as a map-style dataset"):
        trainer.train()


def test_a_bilevel_trainer_with_too_few_rows(tmp_path: Path) -> None:
    trainer = build_trainer(method_named("bidora", val_fraction=0.1), "bert", tmp_path, rows=4)
    with pytest.raises(
        MethodError, match=r"val_fraction=0\.1 of 4 training rows leaves 0 held-out"
    ):
        trainer.train()


def test_a_method_that_draws_its_rows_takes_no_other_order(tmp_path: Path) -> None:
    changes = {"train_sampling_strategy": "sequential", "max_steps": 2}
    with pytest.raises(MethodError, match="train_sampling_strategy='sequential': the phases of bi"):
        build_trainer(method_named("bidora"), "bert", tmp_path, **changes).train()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SPLIT])
def test_others_train_on_a_stream(name: str, tmp_path: Path) -> None:
    trainer = build_trainer(
        method_named(name), "bert", tmp_path, options={"train_dataset": Stream()}
    )
    assert trainer.train().global_step == STEPS


@pytest.mark.parametrize("name", [name for name in METHODS if len(TABLE[name].phases) > 1])
def test_fewer_steps_than_phases(name: str, tmp_path: Path) -> None:
    trainer = build_trainer(method_named(name), "bert", tmp_path, max_steps=1)
    with pytest.raises(MethodError, match=r"\b1 optimizer steps"):
        trainer.train()


# The engine --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fp16": True}, "does not run with fp16 loss scaling; use bf16"),
        ({"auto_find_batch_size": True}, "starts training over with weights and phases of "),
        ({"deepspeed": "zero3.json"}, "deepspeed and fsdp shard; use one process or Distributed"),
        ({"fsdp": ["full_shard"]}, "deepspeed and fsdp shard; use one process or Distributed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@with_procedure
def test_an_engine_that_the_procedure_cannot_run_under(
    name: str, setting: dict[str, Any], message: str
) -> None:
    fine = {"n_gpu": 1, "deepspeed": None, "fsdp": [], "fp16": False, "auto_find_batch_size": False}
    check_arguments(types.SimpleNamespace(**fine), method_named(name))  # type: ignore[arg-type]
    with pytest.raises(MethodError, match=message):
        check_arguments(
            types.SimpleNamespace(**{**fine, **setting}),  # type: ignore[arg-type]
            method_named(name),
        )


@pytest.mark.parametrize("name", sorted(METHODS))
def test_several_gpus_in_one_process(name: str) -> None:
    args: Any = types.SimpleNamespace(n_gpu=2)
    with pytest.raises(MethodError, match=rf"{name} does not run under DataParallel.*\(2 here\)"):
        check_arguments(args, method_named(name))


@pytest.mark.parametrize("setting", [{"deepspeed": "zero3.json"}, {"fsdp": ["full_shard"]}])
def test_an_engine_that_a_penalty_on_outputs_cannot_run_under(setting: dict[str, Any]) -> None:
    fine = {"n_gpu": 1, "deepspeed": None, "fsdp": [], "fp16": True}
    check_arguments(types.SimpleNamespace(**fine), method_named("ba_lora"))  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="ba_lora calls the model beside the Trainer, which deep"):
        check_arguments(
            types.SimpleNamespace(**{**fine, **setting}),  # type: ignore[arg-type]
            method_named("ba_lora"),
        )


@with_procedure
def test_the_trainer_asks_before_it_is_built(name: str, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=f"{name} does not run with fp16"):
        build_trainer(method_named(name), "bert", tmp_path, fp16=True)


@with_procedure
def test_a_schedule_that_cannot_be_divided(name: str, tmp_path: Path) -> None:
    trainer = build_trainer(
        method_named(name),
        "bert",
        tmp_path,
        lr_scheduler_type="reduce_lr_on_plateau",
        eval_strategy="steps",
        options={"eval_dataset": classification_rows(4)},
    )
    with pytest.raises(MethodError, match=f"divided into the phases of {name}; use linear, cosine"):
        trainer.train()


@with_procedure
def test_an_optimizer_without_roles(name: str, tmp_path: Path) -> None:
    trainer = build_trainer(method_named(name), "bert", tmp_path)
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    trainer.optimizer = torch.optim.AdamW(parameters)
    with pytest.raises(MethodError, match=r"build yours from trainer\.run\.parameter_groups"):
        trainer.train()


@with_procedure
def test_training_a_second_time(name: str, tmp_path: Path) -> None:
    trainer = build_trainer(method_named(name), "bert", tmp_path)
    trainer.train()
    with pytest.raises(MethodError, match=f"{name} has phases, .* has done {STEPS} steps"):
        trainer.train()


def test_a_model_that_is_made_anew(tmp_path: Path) -> None:
    method = method_named("lora")
    with pytest.raises(MethodError, match="model_init makes a new model at every train"):
        Trainer(
            args=arguments(tmp_path),
            model_init=lambda: method.apply(base_model("bert")),
            method=method,
        )


def test_a_model_that_another_method_made(tmp_path: Path) -> None:
    for method in ("bidora", "xgblora"):
        with pytest.raises(MethodError):
            Loop(
                method_named("lora").apply(base_model("bert")), method_named(method), total_steps=8
            )


# Not a number ------------------------------------------------------------------------------------


class Poison(TrainerCallback):
    """Makes the loss or a gradient of a step something that is not a number."""

    def __init__(self, what: str, step: int = 5) -> None:
        self.what = what
        self.step = step
        self.trainer: Any = None
        self.before: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step != self.step:
            return
        self.before = adapter(self.trainer.model)
        head = self.trainer.model.get_base_model().classifier.modules_to_save["default"]
        if self.what == "weights":
            head.bias.data.fill_(float("nan"))
        elif self.what == "the loss":
            head.register_forward_hook(lambda _m, _i, output: output * float("nan"))
        else:
            head.bias.register_hook(lambda grad: grad * float("inf"))


@pytest.mark.parametrize("what", ["the loss", "the norm of the gradient"])
@pytest.mark.parametrize("name", OF_EVERY_SORT)
def test_not_a_number_stops_with_the_last_good_state(name: str, what: str, tmp_path: Path) -> None:
    poison = Poison(what)
    poison.trainer = build_trainer(
        method_named(name),
        "bert",
        tmp_path,
        callbacks=[poison],
        save_strategy="steps",
        save_steps=2,
    )
    message = rf"{what} at step 5 is (nan|inf).*finite loss after it is .*checkpoint-4\."
    with pytest.raises(TrainingError, match=message):
        poison.trainer.train()
    assert parameter_epoch.current_epoch() is None
    assert same_bits(adapter(poison.trainer.model), poison.before)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in poison.before.values())


def poisoned(what: str, folder: Path, step: int = 5, **changes: Any) -> str:
    """The error of a run of LoRA that saves after every step, and is poisoned."""
    poison = Poison(what, step)
    values = {"save_strategy": "steps", "save_steps": 1, **changes}
    trainer = build_trainer(method_named("lora"), "bert", folder, callbacks=[poison], **values)
    poison.trainer = trainer
    with pytest.raises(TrainingError) as caught:
        trainer.train()
    return str(caught.value)


GOOD = r"the last checkpoint with a finite loss after it is .*checkpoint-{}"


def test_not_a_number_before_any_checkpoint(tmp_path: Path) -> None:
    message = poisoned("the loss", tmp_path, save_strategy="no")
    assert "no checkpoint has been written yet (save_steps)" in message


def test_the_checkpoint_that_is_named_is_one_whose_loss_was_finite(tmp_path: Path) -> None:
    """The checkpoint of the step before holds the weights whose loss is not finite."""
    message = poisoned("the loss", tmp_path)
    named = (
        GOOD.format(4) + r" \(delete checkpoint-5, which has these weights\)\. Lower the learning"
    )
    assert re.search(named, message), message


def test_weights_that_an_update_has_broken(tmp_path: Path) -> None:
    message = poisoned("weights", tmp_path)
    assert "not all of them are finite" in message
    assert re.search(GOOD.format(4) + ".*Lower the learning rate$", message), message


def test_a_gradient_that_is_not_a_number_leaves_the_checkpoint_good(tmp_path: Path) -> None:
    message = poisoned("the norm of the gradient", tmp_path)
    assert re.search(GOOD.format(5) + r"\. Lower the learning rate, or check the data", message)


def test_an_older_run_in_the_folder_is_not_named(tmp_path: Path) -> None:
    build_trainer(
        method_named("lora"), "bert", tmp_path, save_strategy="steps", save_steps=8
    ).train()
    message = poisoned("the loss", tmp_path, save_steps=3)
    assert (tmp_path / "checkpoint-8").exists()
    assert re.search(GOOD.format(3) + r"\. ", message), message


@pytest.mark.parametrize(
    "changes", [{"step": 0}, {"learning_rate": 0.0}], ids=["first", "at rate 0"]
)
def test_the_rate_is_not_blamed_where_no_step_has_moved_the_weights(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    message = poisoned("the loss", tmp_path, **changes)
    assert "Lower the learning rate" not in message
    assert "base model's own loss is finite in float32" in message


def test_the_only_checkpoint_has_the_weights_that_failed(tmp_path: Path) -> None:
    message = poisoned("the loss", tmp_path, step=1)
    assert re.search(r"checkpoint-1 has these weights \(delete it\), and there is none", message)


def _one_row() -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(value) for key, value in classification_rows(1)[0].items()}
