"""What must hold of Flat-LoRA on whole models; the noise itself is in `tests/layers`."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor

from models import batch, rows_for, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop
from rankwright.core.method import Method
from rankwright.core.method_registry import get_method
from rankwright.methods import FlatLoRA, LoRA
from rankwright.procedures.perturbation import Perturbation

STEPS = 4
FIELDS: dict[str, Any] = {"r": 2, "lora_alpha": 4.0, "lora_dropout": 0.1}


def build(kind: str) -> Any:
    return tiny_bert(dropout=0.1) if kind == "bert" else tiny_llama()


def loop(method: Method, base: Any) -> Loop:
    torch.manual_seed(11)
    return Loop(method.apply(base, seed=3), method, total_steps=STEPS, lr=1e-2, seed=5)


def train(run: Loop, start: int = 0, stop: int = STEPS) -> Loop:
    rows = rows_for(run.model.get_base_model(), 4 * STEPS)
    for step in range(start, stop):
        run.train_step(batch(rows[4 * step : 4 * step + 4]))
    return run


def logits(model: Any) -> Tensor:
    inputs = batch(rows_for(getattr(model, "get_base_model", lambda: model)(), 3, seed=7))
    with torch.no_grad():
        result: Tensor = model.eval()(**inputs).logits
    return result


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_without_noise_it_is_lora_bit_for_bit(kind: str) -> None:
    """Dropout masks included: the noise has a generator of its own."""
    runs = [train(loop(m, build(kind))) for m in (LoRA(**FIELDS), FlatLoRA(rho=0, **FIELDS))]
    assert same_bits(*(get_peft_model_state_dict(run.model) for run in runs))
    states = []
    for method in (LoRA(**FIELDS), FlatLoRA(rho=0.3, **FIELDS)):
        run = train(loop(method, build(kind)), 0, 1)
        states.append(copy.deepcopy(get_peft_model_state_dict(run.model)))
        train(run, 1, 3)
        states[-1]["random state"] = torch.get_rng_state()
    assert same_bits(*states)  # the ramp starts at 0, and later draws are not of this generator


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_is_saved_is_the_model_and_the_base_is_untouched(kind: str, tmp_path: Path) -> None:
    expected = logits(build(kind))
    run = loop(FlatLoRA(rho=0.5, **FIELDS), build(kind))
    for step in range(STEPS):
        train(run, step, step + 1)
        run.model.save_pretrained(tmp_path / str(step))
        vanilla = PeftModel.from_pretrained(build(kind), tmp_path / str(step))
        torch.testing.assert_close(logits(vanilla), logits(run.model), rtol=0, atol=3e-6)
        with run.model.disable_adapter():
            assert torch.equal(logits(run.model), expected)
    kept, unloaded = build(kind).state_dict(), run.model.unload().state_dict()
    assert all(torch.equal(unloaded[n], t) for n, t in kept.items() if "classifier" not in n)


def test_a_bfloat16_base_is_untouched_and_trained() -> None:
    run = train(loop(FlatLoRA(rho=0.5, **FIELDS), tiny_llama().bfloat16()))
    kept = tiny_llama().bfloat16().state_dict()
    unloaded = run.model.unload().state_dict()
    assert all(torch.equal(unloaded[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_resume_at_every_step_gives_the_same_bits(kind: str) -> None:
    method = FlatLoRA(rho=0.5, **FIELDS)
    expected = get_peft_model_state_dict(train(loop(method, build(kind))).model)
    for cut in range(1, STEPS):
        state = train(loop(method, build(kind)), 0, cut).state_dict()
        resumed = loop(method, build(kind))
        torch.manual_seed(12)
        resumed.load_state_dict(state)
        train(resumed, cut)
        assert same_bits(get_peft_model_state_dict(resumed.model), expected)


def test_the_defaults_are_those_of_the_page() -> None:
    method = FlatLoRA()
    assert get_method("flat_lora") is FlatLoRA
    assert (method.r, method.lora_alpha, method.target_modules) == (8, 16.0, "all-linear")
    assert method.slots().procedure == Perturbation(
        rho=0.05, per_micro_batch=False, same_on_all_processes=True
    )
    assert method.slots().filled() == ["procedure"]
