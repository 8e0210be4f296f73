"""BA-LoRA: PiSSA without its weights, the right teacher, inert tasks, under every trainer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from models import batch, classification_rows, rows_for, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop
from rankwright.core.model_call import watch_calls
from rankwright.layers.stacked.factor import StackedFactor
from rankwright.methods import BALoRA, DoRA, PiSSA
from rankwright.penalties import Outputs
from rankwright.penalties.outputs import consistency
from trainers import adapter, build_trainer

FIELDS: dict[str, Any] = {"r": 2, "lora_alpha": 4.0, "niter": 2}
OFF: dict[str, Any] = {"consistency": 0.0, "diversity": 0.0, "spectral": 0.0}
BUILDS = {"bert": tiny_bert, "llama": tiny_llama}


@pytest.mark.parametrize("kind", BUILDS)
def test_without_its_weights_it_is_pissa_bit_for_bit(kind: str, tmp_path: Path) -> None:
    runs = [
        build_trainer(method, kind, tmp_path, max_steps=4)
        for method in (BALoRA(**OFF, **FIELDS), PiSSA(**FIELDS))
    ]
    for trainer in runs:
        trainer.train()
    assert same_bits(*(adapter(trainer.model) for trainer in runs))
    assert runs[0].cost().passes == 4  # the base was not asked


@pytest.mark.parametrize("kind", BUILDS)
def test_the_teacher_is_the_pretrained_model(kind: str) -> None:
    """Before the first step it agrees with the student; the residual base would not."""
    base = BUILDS[kind]()
    method = BALoRA(**FIELDS)
    run = Loop(method.apply(base), method, total_steps=5, lr=1e-2)
    inputs = batch(rows_for(base, 4))
    with watch_calls(run.model, None) as calls:
        run.model(**inputs)
    (call,) = calls
    where = torch.ones_like(inputs["input_ids"], dtype=torch.bool) if kind == "llama" else None
    z = call.logits(where)
    assert torch.equal(call.base_logits(where), z)
    run.train_step(inputs)
    assert abs(run.metrics["consistency"]) < 1e-12
    run.train_step(inputs)
    assert run.metrics["consistency"] > 1e-9

    fresh = method.apply(BUILDS[kind]())
    for module in fresh.modules():
        if isinstance(module, StackedFactor):
            module.live.data.zero_()  # W - s B_0 A_0 is left
    with torch.no_grad():
        residual = fresh.train()(**inputs).logits.flatten(0, -2)
    assert float(consistency(residual, z.detach(), 2.0).mean()) > 1e-6


def test_in_a_regression_nothing_is_added_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []
    for method in (BALoRA(**FIELDS), PiSSA(**FIELDS)):
        base = tiny_bert(num_labels=1)
        rows = [{**row, "labels": float(row["labels"])} for row in classification_rows(8)]
        run = Loop(method.apply(base), method, total_steps=3)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                run.train_step(batch(rows))
        runs.append(run)
    assert same_bits(*(adapter(run.model) for run in runs))
    assert runs[0].passes == 3
    (said,) = [r for r in caplog.records if "no effect" in r.getMessage()]
    assert "as in regression" in said.getMessage()


def test_with_two_classes_the_spectral_term_is_said_to_be_inert(
    caplog: pytest.LogCaptureFixture,
) -> None:
    method = BALoRA(**FIELDS)
    run = Loop(method.apply(tiny_bert()), method, total_steps=2)
    for _ in range(2):
        run.train_step(batch(classification_rows(8)))
    assert run.metrics.keys() == {"consistency", "diversity", "penalty"}
    assert sum("the spectral term has no effect" in r.getMessage() for r in caplog.records) == 1


def test_activations_may_be_recomputed(tmp_path: Path) -> None:
    """The base is asked between the forward and the backward that computes it again."""
    runs = [
        build_trainer(
            BALoRA(**FIELDS), "llama", tmp_path, max_steps=3, activation_checkpointing=recomputed
        )
        for recomputed in (False, True)
    ]
    for trainer in runs:
        trainer.train()
    for first, second in zip(*(adapter(t.model).values() for t in runs), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_as_a_part_of_another_method() -> None:
    method = DoRA(r=2).with_parts(penalty=Outputs(spectral=0.0, diversity=0.0))
    run = Loop(method.apply(tiny_llama()), method, total_steps=3, lr=1e-2)
    inputs = batch(rows_for(tiny_llama(), 4))
    for _ in range(3):
        run.train_step(inputs)
    assert run.metrics["consistency"] > 0
    assert run.passes == 3 + 1


def test_the_consistency_keeps_outputs_near_the_base() -> None:
    """Trained the same but for a large weight, the model stays closer to what it was."""
    distances = []
    for weight in (0.0, 20.0):
        method = BALoRA(**{**FIELDS, **OFF, "consistency": weight})
        base = tiny_llama()
        inputs = batch(rows_for(base, 8))
        before = base.eval()(**inputs).logits.detach()
        run = Loop(method.apply(base), method, total_steps=12, lr=1e-2)
        for _ in range(12):
            run.train_step(inputs)
        after = run.model.eval()(**inputs).logits.detach()
        distances.append(float(consistency(before.flatten(0, 1), after.flatten(0, 1), 1.0).mean()))
    assert distances[1] < 0.5 * distances[0]
