"""What a transformers Trainer can do, it can do with a method."""

from __future__ import annotations

import itertools
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError
from transformers import TrainerCallback

import trainers
from method_table import (
    BATCH,
    BY_FORWARD,
    IN_TURN,
    OF_EVERY_SORT,
    ROWS,
    STEPS,
    TABLE,
    method_named,
    one_of_each,
)
from models import classification_rows, same_bits
from rankwright.core.schedule import FORWARD
from rankwright.errors import MethodError, TrainingError
from rankwright.methods import BiDoRA, DoRA, LoRA, XGBLoRA
from rankwright.training import MethodMixin, Trainer, checkpoint, totals, with_method
from rankwright.training.checkpoint import IncompleteCheckpointWarning, newest_complete
from rankwright.training.sampling import PhaseSampler
from trainers import adapter, arguments, base_model, build_trainer, logits

by_forward = pytest.mark.parametrize("name", BY_FORWARD)
of_every_sort = pytest.mark.parametrize("name", OF_EVERY_SORT)

OF_BATCHES = "ba_lora"
"""Its penalty is of all rows of a batch together, not a sum over them."""


def trained(*args: Any, **options: Any) -> Any:
    trainer = build_trainer(*args, **options)
    trainer.train()
    return trainer


# Special cases, bit for bit ----------------------------------------------------------------------


def test_lora_is_what_a_plain_trainer_makes_of_peft(tmp_path: Path) -> None:
    ours = trained(LoRA(r=2, lora_dropout=0.1), "bert", tmp_path)
    model = LoRA(r=2, lora_dropout=0.1).apply(base_model("bert"), seed=3)
    plain = transformers.Trainer(
        model, arguments(tmp_path), train_dataset=classification_rows(ROWS)
    )
    plain.train()
    assert same_bits(adapter(ours.model), adapter(plain.model))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_one_round_of_xgblora_on_all_layers_is_lora(kind: str, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1}
    lora = trained(LoRA(**shared), kind, tmp_path)
    boosted = trained(XGBLoRA(rounds=1, layers_per_round=None, **shared), kind, tmp_path)
    assert same_bits(adapter(lora.model), adapter(boosted.model))


def test_bidora_that_leaves_the_magnitudes_alone_is_dora_with_fixed_ones(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"r": 2, "lora_alpha": 4.0}
    bilevel = trained(
        BiDoRA(upper_lr=0.0, retrain=False, gram_weight=0.0, **shared), "bert", tmp_path
    )
    rows = PhaseSampler(bilevel.run, ROWS, BATCH)

    class SameRows(Trainer):
        def _get_train_sampler(self, train_dataset: Any | None = None) -> Any:
            return rows

    control = build_trainer(DoRA(norm_grad="full", **shared), "bert", tmp_path, cls=SameRows)
    for key, parameter in control.model.named_parameters():
        if "lora_magnitude_vector" in key:
            parameter.requires_grad_(False)
    control.train()
    assert same_bits(adapter(bilevel.model), adapter(control.model))


# Steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [run for run in IN_TURN if run[0] in set(BY_FORWARD) - {OF_BATCHES}]
)
def test_two_micro_batches_are_one_batch(name: str, kind: str, tmp_path: Path) -> None:
    """20 rows: the last step of each of the two epochs has one micro-batch only."""
    found = []
    for size, accumulation in ((8, 1), (4, 2)):
        trainer = trained(
            method_named(name),
            kind,
            tmp_path,
            rows=20,
            double=True,
            dropout=False,
            max_steps=6,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
        found.append((adapter(trainer.model), trainer.state.log_history))
    (large, large_log), (small, small_log) = found
    for key, value in large.items():
        torch.testing.assert_close(small[key], value, rtol=1e-7, atol=1e-9, msg=key)
    for one, two in zip(large_log[:-1], small_log[:-1], strict=True):
        assert one["loss"] == pytest.approx(two["loss"])
        assert one["grad_norm"] == pytest.approx(two["grad_norm"])


def test_every_search_step_logs_what_its_passes_were_for(tmp_path: Path) -> None:
    """The last one too, which three passes were spent on."""
    trainer = trained(method_named("bidora"), "bert", tmp_path)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["passes"] for entry in logs] == [3, 6, 9, 12, 13, 14, 15, 16]
    assert ["upper_loss" in entry for entry in logs] == [True] * 4 + [False] * 4


class Norms(TrainerCallback):
    """Norm of all gradients as the optimizer sees them."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        self.seen.append(float(torch.nn.utils.get_total_norm(grads)))


@pytest.mark.parametrize("name", one_of_each("optimizer", "penalty", "procedure"))
def test_gradients_are_clipped_after_the_penalty(name: str, tmp_path: Path) -> None:
    norms = Norms()
    trainer = trained(method_named(name), "bert", tmp_path, callbacks=[norms], max_grad_norm=0.01)
    if getattr(trainer.optimizer.optimizer, "owns_clipping", False):
        assert min(norms.seen) > 0.01
    else:
        assert norms.seen == pytest.approx([0.01] * STEPS, rel=1e-3)
    assert all(entry["grad_norm"] > 0.01 for entry in trainer.state.log_history[:-1])


@by_forward
def test_bfloat16_autocast(name: str, tmp_path: Path) -> None:
    exact = trained(method_named(name), "bert", tmp_path, dropout=False)
    rounded = trained(method_named(name), "bert", tmp_path, dropout=False, bf16=True)
    assert rounded.accelerator.mixed_precision == "bf16"
    assert all(tensor.dtype == torch.float32 for tensor in adapter(rounded.model).values())
    first = [trainer.state.log_history[0]["loss"] for trainer in (exact, rounded)]
    assert first[0] == pytest.approx(first[1], rel=2e-2)
    assert not same_bits(adapter(exact.model), adapter(rounded.model))
    assert rounded.cost().passes == TABLE[name].passes


@pytest.mark.parametrize(("name", "kind"), [run for run in IN_TURN if run[0] in BY_FORWARD])
def test_gradient_checkpointing_changes_no_number(name: str, kind: str, tmp_path: Path) -> None:
    plain = trained(method_named(name), kind, tmp_path, max_steps=4)
    recomputed = trained(
        method_named(name), kind, tmp_path, max_steps=4, activation_checkpointing=True
    )
    for key, value in adapter(plain.model).items():
        torch.testing.assert_close(adapter(recomputed.model)[key], value, rtol=1e-4, atol=1e-6)


# Reports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OF_EVERY_SORT, OF_BATCHES])
def test_tensorboard_gets_what_the_procedure_measured(name: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(method_named(name), "bert", tmp_path / "out", max_steps=4, report_to=["tensorboard"])
    (file,) = (tmp_path / "out").rglob("events.out.tfevents*")
    events = EventAccumulator(str(file)).Reload()
    tags = set(events.Tags()["scalars"])
    expected = {
        "bidora": {"train/upper_loss", "train/hypergradient_norm", "train/penalty"},
        "xgblora": {"train/round", "train/mean_rank", "train/stored_parameters"},
    }
    assert {"train/loss", "train/passes"} | expected.get(name, set()) <= tags
    passes = {"bidora": 3, "ba_lora": 1 + FORWARD}.get(name, 1)
    assert events.Scalars("train/passes")[0].value == pytest.approx(passes)


def evaluated(name: str, folder: Path, **changes: Any) -> Any:
    """A run that gets worse after its first half, evaluated after each epoch of 2 steps."""
    trainer = build_trainer(
        method_named(name),
        "bert",
        folder,
        rows=8,
        options={"eval_dataset": classification_rows(8, seed=4)},
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="worst",
        greater_is_better=False,
        **changes,
    )
    scores = iter([3.0, 1.0, 2.0, 4.0])
    trainer.compute_metrics = lambda _prediction: {"worst": next(scores)}
    trainer.train()
    return trainer


@of_every_sort
def test_the_best_model_is_there_at_the_end(name: str, tmp_path: Path) -> None:
    """For a chain the best one has other ranks than the last."""
    trainer = evaluated(name, tmp_path)
    best = tmp_path / "checkpoint-4"
    assert trainer.state.best_model_checkpoint == str(best)
    plain = PeftModel.from_pretrained(base_model("bert"), best)
    assert torch.equal(adapter(trainer.model)["base_model.model.classifier.weight"],
                       adapter(plain)["base_model.model.classifier.weight"])  # fmt: skip
    assert float((logits(trainer.model, "bert") - logits(plain, "bert")).abs().max()) <= 3e-6
    trainer.save_model(str(tmp_path / "final"))
    saved = PeftModel.from_pretrained(base_model("bert"), tmp_path / "final")
    # not its bits where the end prunes ranks
    torch.testing.assert_close(logits(saved, "bert"), logits(plain, "bert"), rtol=0, atol=3e-6)
    last = PeftModel.from_pretrained(base_model("bert"), tmp_path / "checkpoint-8")
    assert not torch.equal(logits(last, "bert"), logits(plain, "bert"))


@pytest.mark.parametrize("name", ["xgblora", "sora"])
def test_only_so_many_checkpoints_are_kept(name: str, tmp_path: Path) -> None:
    trainer = evaluated(name, tmp_path, save_total_limit=2)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"checkpoint-4", "checkpoint-8"}  # the best and the last
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")


@pytest.mark.parametrize("name", ["bidora", "xgblora"])
def test_epochs_are_counted_as_steps_are(name: str, tmp_path: Path) -> None:
    by_steps = trained(method_named(name), "bert", tmp_path)
    by_epochs = trained(method_named(name), "bert", tmp_path, max_steps=-1, num_train_epochs=2)
    assert by_epochs.state.global_step == STEPS
    assert same_bits(adapter(by_steps.model), adapter(by_epochs.model))


@pytest.mark.parametrize("failure", [OSError, RuntimeError, SafetensorError])
def test_a_checkpoint_that_cannot_be_written_is_one_message(
    failure: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_trainer(
        method_named("lora"), "bert", tmp_path, save_strategy="steps", save_steps=1
    )
    save_state = checkpoint.save_state

    def on_a_full_disk(state: dict[str, Any], folder: Path) -> None:
        if folder.name == "checkpoint-2":
            raise failure("no space left")
        save_state(state, folder)

    monkeypatch.setattr(checkpoint, "save_state", on_a_full_disk)
    message = r"of step 2 cannot be written to .*: no space left; the newest .* is .*ckpoint-1\."
    with pytest.raises(TrainingError, match=message):
        trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1"}


# Resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "bidora"])
def test_resume_takes_true_a_path_and_the_newest_whole_one(name: str, tmp_path: Path) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}
    expected = adapter(trained(method_named(name), "bert", tmp_path, **saving).model)
    weights = tmp_path / "checkpoint-6" / "adapter_model.safetensors"
    for resume in (True, str(tmp_path / "checkpoint-3"), "damaged"):
        again = build_trainer(method_named(name), "bert", tmp_path, adapter_seed=9)
        if resume == "damaged":
            weights.write_bytes(weights.read_bytes()[:-8])
            # the last one is a step of its own: 8 is no multiple of 3
            for path in (tmp_path / "checkpoint-8").glob("*.json"):
                path.unlink()
            with pytest.warns(IncompleteCheckpointWarning) as caught:
                again.train(resume_from_checkpoint=True)
            assert {"checkpoint-8", "checkpoint-6"} == {
                str(warning.message).split()[2].rstrip(":") for warning in caught
            }
        else:
            again.train(resume_from_checkpoint=resume)
        assert same_bits(adapter(again.model), expected), resume


def test_a_checkpoint_of_other_modules_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions put factors on a pooler that no file has, which is now trained whole."""

    def copied(*args: Any, **options: Any) -> Any:
        model = base_model(*args, **options)
        model.name_or_path = "loaded once"  # and without marks: a copy, whose pooler may be new
        return model

    trained(LoRA(r=2), "bert", tmp_path, save_strategy="steps", save_steps=3)
    monkeypatch.setattr(trainers, "base_model", copied)
    again = build_trainer(LoRA(r=2), "bert", tmp_path)
    with pytest.raises(MethodError, match=r"checkpoint-8 has no .*bert\.pooler\.dense\.weight"):
        again.train(resume_from_checkpoint=True)


def test_the_summary_is_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last process of the run made three of its steps, or none."""
    looks = itertools.count()
    clock = types.SimpleNamespace(time=lambda: 100.0 * next(looks))
    monkeypatch.setattr(totals, "time", clock)
    options = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 3}
    straight = trained(method_named("lora"), "bert", tmp_path, **options)
    expected = straight.state.log_history[-1]["train_loss"]
    assert expected > 0
    for step in (5, 8):
        again = build_trainer(method_named("lora"), "bert", tmp_path, adapter_seed=9, **options)
        output = again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert output.training_loss == expected
        assert [e.get("loss") for e in again.state.log_history] == [
            e.get("loss") for e in straight.state.log_history
        ]
        # a hundred seconds a look at the clock: at the start and at every checkpoint
        assert again.state.log_history[-1]["train_runtime"] >= 100 * step


def test_resume_without_a_checkpoint(tmp_path: Path) -> None:
    trainer = build_trainer(LoRA(r=2), "bert", tmp_path)
    with pytest.raises(TrainingError, match="no complete checkpoint in"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(TrainingError, match="was never finished"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "nowhere"))


def test_resume_without_optimizer_state_is_refused(tmp_path: Path) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "save_only_model": True}
    trained(LoRA(r=2), "bert", tmp_path, **saving)
    trainer = build_trainer(LoRA(r=2), "bert", tmp_path)
    with pytest.raises(TrainingError, match=r"no optimizer state \(save_only_model\)"):
        trainer.train(resume_from_checkpoint=True)


def test_resume_with_another_method_or_field_is_refused(tmp_path: Path) -> None:
    trained(method_named("dora"), "bert", tmp_path, save_strategy="steps", save_steps=4)
    for method, message in (
        (method_named("lora"), "was written with name='dora', this run has name='lora'"),
        (method_named("dora", lora_alpha=8.0), r"lora_alpha=4\.0, this run has lora_alpha=8\.0"),
    ):
        trainer = build_trainer(method, "bert", tmp_path)
        with pytest.raises(MethodError, match=message):
            trainer.train(resume_from_checkpoint=True)


def test_resume_with_other_rows_or_steps_is_refused(tmp_path: Path) -> None:
    trained(method_named("bidora"), "bert", tmp_path, save_strategy="steps", save_steps=4)
    (tmp_path / "checkpoint-8").rename(tmp_path / "other")
    for changes, message in (({"rows": 20}, "its split is"), ({"max_steps": 12}, "its phases is")):
        trainer = build_trainer(method_named("bidora"), "bert", tmp_path, **changes)
        with pytest.raises(MethodError, match=message):
            trainer.train(resume_from_checkpoint=True)


class Stop(TrainerCallback):
    """Ends training early, as EarlyStoppingCallback does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 3


@pytest.mark.parametrize("name", one_of_each("procedure"))
def test_stopping_early_still_ends_the_procedure(name: str, tmp_path: Path) -> None:
    trainer = build_trainer(method_named(name), "bert", tmp_path, callbacks=[Stop()])
    ended = []
    end = trainer.run.procedure.end
    trainer.run.procedure.end = lambda: ended.append(end())
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(ended) == 1
    assert not trainer.interrupted


def test_leftovers_of_a_killed_process_go(tmp_path: Path) -> None:
    (tmp_path / ".saving-7" / "checkpoint-7").mkdir(parents=True)
    trained(LoRA(r=2), "bert", tmp_path, max_steps=1)
    assert newest_complete(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


# Other trainers ----------------------------------------------------------------------------------


class TheirTrainer(transformers.Trainer):
    """A user's own subclass with a loss of its own."""

    calls = 0

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        TheirTrainer.calls += 1
        loss = super().compute_loss(model, inputs, *args, **options)
        return (2 * loss[0], loss[1]) if isinstance(loss, tuple) else 2 * loss


@pytest.mark.parametrize("name", ["lora", "bidora", OF_BATCHES])
def test_any_trainer_takes_a_method(name: str, tmp_path: Path) -> None:
    cls = with_method(TheirTrainer)
    assert (cls.__name__, issubclass(cls, TheirTrainer)) == ("TheirTrainerWithMethod", True)
    TheirTrainer.calls = 0
    theirs = trained(method_named(name), "bert", tmp_path, cls=cls, dropout=False)
    ours = trained(method_named(name), "bert", tmp_path, dropout=False)
    losses = [trainer.state.log_history[0]["loss"] for trainer in (theirs, ours)]
    assert losses[0] == pytest.approx(2 * losses[1])
    of_teacher = STEPS * FORWARD if name == "ba_lora" else 0  # the base model, not the loss
    assert TheirTrainer.calls == pytest.approx(TABLE[name].passes - of_teacher)


def test_a_trainer_that_has_a_method_already() -> None:
    assert with_method(Trainer) is Trainer
    assert issubclass(Trainer, MethodMixin)
