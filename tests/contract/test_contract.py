"""What every method promises; the numbers are those of the contract in docs/architecture.md.

A method is known by being registered; its row in tests/support/method_table.py has what its tests
need.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import BertForMaskedLM, BertForSequenceClassification

import trainers
from method_table import BUILDS, FACTORED, IN_TURN, METHODS, STEPS, TABLE, method_named
from models import same_bits, tiny_bert
from rankwright.core.method_registry import available_methods
from rankwright.training.progress_bars import no_progress_bars
from trainers import adapter, base_model, build_trainer, logits, probe

SUPPORT = Path(__file__).resolve().parents[1] / "support"
ROUNDING = 3e-6
"""Logits of about 1 in float32 by PEFT's forward, which sums in another order than ours."""

every_method = pytest.mark.parametrize("name", METHODS)
every_model = pytest.mark.parametrize("kind", BUILDS)


def test_every_registered_method_has_a_row() -> None:
    assert sorted(available_methods()) == METHODS, (
        "give the method its row in tests/support/method_table.py"
    )


# 1. Starts as the base ---------------------------------------------------------------------------


@every_model
@every_method
def test_a_fresh_adapter_is_the_base_bit_for_bit(past: Any, name: str, kind: str) -> None:
    run = past(name, kind)
    assert torch.equal(run.fresh, run.base)


@every_model
@every_method
def test_a_fresh_adapter_is_the_base_in_bfloat16_too(name: str, kind: str) -> None:
    expected = logits(base_model(kind).bfloat16(), kind)
    model = method_named(name).apply(base_model(kind).bfloat16())
    assert torch.equal(logits(model, kind), expected)


# 2. Never writes the base ------------------------------------------------------------------------


@every_model
@every_method
def test_disabled_is_the_base_after_every_step(past: Any, name: str, kind: str) -> None:
    run = past(name, kind)
    assert len(run.disabled) == STEPS
    assert all(torch.equal(seen, run.base) for seen in run.disabled)
    assert not torch.equal(run.enabled[0], run.enabled[-1])  # and it was trained


# 3. Standard artefact ----------------------------------------------------------------------------


@every_model
@every_method
def test_plain_peft_loads_what_every_step_saved(past: Any, name: str, kind: str) -> None:
    run = past(name, kind)
    for step, expected in enumerate(run.enabled, start=1):
        loaded = PeftModel.from_pretrained(base_model(kind), run.folder / f"checkpoint-{step}")
        assert float((logits(loaded, kind) - expected).abs().max()) <= ROUNDING, step


@every_model
@every_method
def test_plain_peft_loads_what_the_end_left(
    past: Any, name: str, kind: str, tmp_path: Path
) -> None:
    model = past(name, kind).trainer.model
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model(kind), tmp_path)
    assert float((logits(loaded, kind) - logits(model, kind)).abs().max()) <= ROUNDING
    with model.disable_adapter():
        assert torch.equal(logits(model, kind), past(name, kind).base)


def masked_words(folder: Path, seed: int) -> BertForSequenceClassification:
    """A classifier on a file of masked-word pretraining, which has no pooler and no classifier."""
    if not folder.exists():
        BertForMaskedLM(tiny_bert().config).save_pretrained(folder)
    torch.manual_seed(seed)
    return BertForSequenceClassification.from_pretrained(folder)


@every_method
def test_what_no_file_has_is_in_the_adapter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "base"
    monkeypatch.setattr(trainers, "base_model", lambda *_, **__: masked_words(file, seed=0))
    with no_progress_bars():
        trainer = build_trainer(method_named(name), "bert", tmp_path / "run")
        before = logits(trainer.model, "bert")
        trainer.train()
        trainer.save_model(str(tmp_path / "saved"))
        loaded = PeftModel.from_pretrained(masked_words(file, seed=1), tmp_path / "saved")
    expected = logits(trainer.model, "bert")
    assert float((logits(loaded, "bert") - expected).abs().max()) <= ROUNDING
    assert not torch.equal(before, expected)


PEFT_ALONE = """
import json, sys
sys.modules["rankwright"] = None  # any import of it fails
import torch
torch.set_num_threads(1)
from peft import PeftModel
import models

for case in json.load(sys.stdin):
    model = getattr(models, "tiny_" + case["kind"])().eval()
    model = PeftModel.from_pretrained(model, case["adapter"]).eval()
    inputs = {key: torch.tensor(value) for key, value in case["inputs"].items()}
    with torch.no_grad():
        found = model(**inputs).logits
    distance = float((found - torch.tensor(case["logits"])).abs().max())
    print(json.dumps([case["adapter"], distance]))
try:
    import rankwright
except ImportError:
    print("alone")
"""


def test_a_process_without_this_package_loads_every_adapter(past: Any) -> None:
    cases = [
        {
            "kind": kind,
            "adapter": str(past(name, kind).folder / f"checkpoint-{step}"),
            "inputs": {key: value.tolist() for key, value in probe(kind).items()},
            "logits": past(name, kind).enabled[step - 1].tolist(),
        }
        for name in METHODS
        for kind in BUILDS
        for step in (3, STEPS)
    ]
    done = subprocess.run(
        [sys.executable, "-c", PEFT_ALONE],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=SUPPORT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    distances = dict(json.loads(line) for line in lines)
    assert last == "alone"
    assert len(distances) == len(cases)
    assert {case: d for case, d in distances.items() if not d <= ROUNDING} == {}


# 4. Merge ----------------------------------------------------------------------------------------


@every_model
@every_method
def test_merged_is_unmerged_after_every_step(past: Any, name: str, kind: str) -> None:
    run = past(name, kind, double=True)
    assert len(run.merged) == STEPS
    for merged, unmerged in zip(run.merged, run.enabled, strict=True):
        torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FACTORED)
def test_a_merge_that_is_not_finite_is_refused(name: str, value: float) -> None:
    model = method_named(name).apply(base_model("bert"))
    before = {key: tensor.clone() for key, tensor in model.get_base_model().state_dict().items()}
    factors = [p for key, p in model.named_parameters() if "lora_B" in key]
    with torch.no_grad():
        factors[0].fill_(value)
    with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
        model.merge_and_unload(safe_merge=True)
    after = model.get_base_model().state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if "base_layer" in key)


# 5. Exact resume ---------------------------------------------------------------------------------


@every_model
@every_method
def test_resumed_at_any_step_is_never_stopped(
    past: Any, name: str, kind: str, tmp_path: Path
) -> None:
    run = past(name, kind)
    # both models in the phases' first and last steps, one of them in all
    for step in range(1, STEPS) if kind == "bert" else (2, 3, 5):
        torch.manual_seed(step)
        again = build_trainer(method_named(name), kind, tmp_path, adapter_seed=9)
        again.train(resume_from_checkpoint=str(run.folder / f"checkpoint-{step}"))
        assert same_bits(adapter(again.model), run.final), step
        assert again.cost().passes == run.trainer.cost().passes


# 6. Same seed, same bits -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), IN_TURN)
def test_the_same_seed_gives_the_same_bits(past: Any, name: str, kind: str, tmp_path: Path) -> None:
    """Also without saving and without anybody looking."""
    again = build_trainer(method_named(name), kind, tmp_path)
    again.train()
    assert same_bits(adapter(again.model), past(name, kind).final)


@every_method
def test_another_seed_gives_other_bits(past: Any, name: str, tmp_path: Path) -> None:
    other = build_trainer(method_named(name), "bert", tmp_path, seed=1)
    other.train()
    assert not same_bits(adapter(other.model), past(name, "bert").final)


# 9. Cost -----------------------------------------------------------------------------------------


@every_model
@every_method
def test_cost_is_reported(past: Any, name: str, kind: str, tmp_path: Path) -> None:
    run = past(name, kind)
    cost = run.trainer.cost()
    run.trainer.model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    trained_at_start = sum(
        p.numel()
        for p in method_named(name).apply(base_model(kind)).parameters()
        if p.requires_grad
    )
    assert cost.stored_parameters == sum(tensor.numel() for tensor in saved.values())
    assert 0 < cost.trainable_parameters <= trained_at_start
    assert 50e6 < cost.peak_memory_bytes < 64e9  # bytes, not kilobytes
    assert 0 < cost.median_step_seconds <= cost.training_seconds < 60
    assert cost.steps == STEPS
    assert cost.passes == TABLE[name].passes
    assert set(cost.as_dict()) == set(vars(cost))


@every_method
def test_the_passes_are_known_beforehand(name: str) -> None:
    assert method_named(name).slots().passes(STEPS) == TABLE[name].passes


@every_method
def test_the_phases_are_those_of_the_row(past: Any, name: str) -> None:
    phases = past(name, "bert").trainer.run.phases
    assert [(phase.name, phase.steps) for phase in phases] == TABLE[name].phases


# Tuning ------------------------------------------------------------------------------------------


@every_method
def test_what_is_tuned_are_fields_and_rates(name: str) -> None:
    cls = available_methods()[name]
    rates = {"learning_rate", "head_learning_rate"}
    assert rates & set(cls.space)
    for field, choice in cls.space.items():
        for value in () if field in rates else choice.ends:
            cls(**{field: value})
