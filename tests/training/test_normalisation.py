"""Micro-batches, whatever number of targets each is scored on, are one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from models import same_bits
from rankwright.errors import TrainingError
from rankwright.methods import BiDoRA, LoRA
from rankwright.training import with_method
from trainers import adapter, build_trainer
from uneven import COUNTS, KINDS, TOGETHER, one_step, together

ROWS = len(COUNTS)


def check_same(left: Any, right: Any) -> None:
    """Adapters and logs of two runs."""
    for key, value in left[0].items():
        torch.testing.assert_close(right[0][key], value, rtol=1e-5, atol=1e-8, msg=key)
    for name in ("loss", "grad_norm"):
        assert left[1][name] == pytest.approx(right[1][name], rel=1e-5), name


SMOOTHED = [(name, 0.2) for name, kind in KINDS.items() if kind.smooth]


@pytest.mark.parametrize(("name", "smoothing"), [*((name, 0.0) for name in KINDS), *SMOOTHED])
def test_micro_batches_are_one_batch(name: str, smoothing: float, tmp_path: Path) -> None:
    """One row each, one without a target; then with a smaller last micro-batch."""
    kind = KINDS[name]
    changes = {"label_smoothing_factor": smoothing}
    whole = one_step(kind, tmp_path, ROWS, **changes)
    assert whole[1]["grad_norm"] > 0
    for size, accumulation in ((1, ROWS), (3, 2)):
        check_same(whole, one_step(kind, tmp_path, size, accumulation, **changes))


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_of_a_batch_is_the_mean_that_the_model_computes(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    rows = kind.rows()
    inputs = {key: torch.stack([torch.as_tensor(r[key]) for r in rows]) for key in rows[0]}
    expected = kind.build()(**inputs).loss.item()
    assert one_step(kind, tmp_path, 1, ROWS)[1]["loss"] == pytest.approx(expected, rel=1e-5)


def divided(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """A loss that divides by the targets it is told of."""
    logits = outputs.logits.flatten(0, 1).float()
    return F.cross_entropy(logits, labels.flatten(), reduction="sum") / num_items_in_batch


def averaged(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """A loss that takes the mean over the targets it sees."""
    return F.cross_entropy(outputs.logits.flatten(0, 1).float(), labels.flatten())


class Own(transformers.Trainer):
    """A trainer with a loss of its own, written without a thought of accumulation."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = averaged(outputs, labels)
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"compute_loss_func": divided}},
        {"options": {"compute_loss_func": averaged}},
        {"cls": with_method(Own)},
    ],
    ids=["divides", "averages", "trainer"],
)
@pytest.mark.parametrize("name", ["token classes", "token classes of a decoder"])
def test_losses_of_ones_own(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    whole = one_step(KINDS[name], tmp_path, ROWS)
    for size, accumulation in ((ROWS, 1), (1, ROWS), (3, 2)):
        check_same(whole, one_step(KINDS[name], tmp_path, size, accumulation, **changes))


@pytest.mark.parametrize("name", TOGETHER)
def test_what_methods_add_is_weighed_alike(name: str, tmp_path: Path) -> None:
    whole = together(name, tmp_path, ROWS)
    check_same(whole, together(name, tmp_path, 1, ROWS))


def sequential(empty: tuple[int, ...], folder: Path, **changes: Any) -> Any:
    """A run over eight rows in order, four to a step, in which some have no target."""
    rows = KINDS["causal"].rows() * 2
    rows = [{**row, "labels": row["input_ids"].clone()} for row in rows]
    for number in empty:
        rows[number]["labels"][:] = -100
    return build_trainer(
        LoRA(r=2, lora_alpha=4),
        "llama",
        folder,
        options={"train_dataset": rows},
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=2,
        train_sampling_strategy="sequential",
        **changes,
    )


@pytest.mark.parametrize("empty", [(0,), (1,), (4,), (0, 1, 2, 4, 5)])
def test_a_micro_batch_without_targets_adds_nothing(empty: tuple[int, ...], tmp_path: Path) -> None:
    """The first of a run too, and the first after it was resumed."""
    trainer = sequential(empty, tmp_path, save_strategy="steps", save_steps=1)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(3.5 < loss < 5 for loss in losses)  # log 64 is 4.2
    again = sequential(empty, tmp_path, adapter_seed=9)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert same_bits(adapter(again.model), adapter(trainer.model))


def test_a_step_without_targets_says_so(tmp_path: Path) -> None:
    trainer = sequential((4, 5, 6, 7), tmp_path)
    with pytest.raises(TrainingError, match=r"no token of step 1 is scored.*raise max_length"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_step_of_unlabelled_rows_says_so(tmp_path: Path) -> None:
    kind = KINDS["classes, one unknown"]
    unlabelled = [{**row, "labels": -100} for row in kind.rows()]
    with pytest.raises(TrainingError, match="no row of step 0 is scored"):
        one_step(kind, tmp_path, 2, 2, options={"train_dataset": unlabelled})


def test_held_out_rows_without_targets_say_so(tmp_path: Path) -> None:
    kind = KINDS["token classes"]
    rows = [kind.rows()[1]] * 4
    method = BiDoRA(r=2, lora_alpha=4, retrain=False)
    with pytest.raises(TrainingError, match="no token of held-out batch 0 is scored"):
        one_step(kind, tmp_path, 4, method=method, options={"held_out_dataset": rows})
