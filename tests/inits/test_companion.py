"""A start at B A != 0 with its companion, on whole models: OLoRA's and PiSSA's."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from models import (
    VOCABULARY,
    batch,
    causal_rows,
    classification_rows,
    same_bits,
    tiny_bert,
    tiny_llama,
    tokens,
)
from rankwright.algebra.row_norms import row_norm_sq
from rankwright.core.loop import Loop
from rankwright.core.method import Method
from rankwright.core.slots import Slots
from rankwright.errors import MethodError
from rankwright.inits import Olora, Pissa
from rankwright.layers import Dora, effective_weight
from rankwright.layers.stacked.layer import StackedLoRA
from rankwright.methods import OLoRA, PiSSA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.weight_view import base_rows
from rankwright.training.export import export_lora, export_merged

METHODS = [OLoRA, PiSSA]
STEPS = 4
FIELDS: dict[str, Any] = {"r": 4, "lora_alpha": 8.0}


@dataclass(frozen=True, kw_only=True)
class Parts(Method):
    """Any parts, as a method."""

    name: ClassVar[str] = "parts"
    summary: ClassVar[str] = "parts"
    reference: ClassVar[str] = "-"
    cost: ClassVar[str] = "-"

    parts: Slots

    def slots(self) -> Slots:
        return self.parts


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=32,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def logits(model: nn.Module) -> Tensor:
    training = model.training
    with torch.no_grad():
        result = model.eval()(input_ids=tokens(3, seed=7)).logits
    model.train(training)
    return result


def batches(base: nn.Module) -> list[dict[str, Tensor]]:
    causal = "LMHead" in type(base).__name__ or "CausalLM" in type(base).__name__
    rows = causal_rows(4 * STEPS) if causal else classification_rows(4 * STEPS)
    return [batch(rows[4 * i : 4 * i + 4]) for i in range(STEPS)]


def loop(method: Method, base: nn.Module) -> Loop:
    return Loop(method.apply(base, seed=3), method, total_steps=STEPS, lr=1e-2, seed=5)


def train(run: Loop, start: int = 0, stop: int = STEPS) -> Loop:
    data = batches(run.model.get_base_model())
    for step in range(start, stop):
        run.train_step(data[step])
    return run


def close(actual: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# The start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"0.*.(query|q_proj)": 2}, "alpha_pattern": {"(key|k_proj)": 3.0}},
        {"r": 16, "lora_alpha": 1.0},  # the full rank of the smallest layers
    ],
)
def test_a_fresh_adapter_is_the_base(method, build, fields, tmp_path):
    expected = logits(build())
    model = method(**{**FIELDS, **fields}).apply(build())
    assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    close(logits(PeftModel.from_pretrained(build(), tmp_path)), expected)


@pytest.mark.parametrize("method", METHODS)
def test_in_bfloat16_the_start_is_the_base_bit_for_bit(method):
    expected = logits(tiny_llama().bfloat16())
    model = method(**FIELDS).apply(tiny_llama().bfloat16())
    assert torch.equal(logits(model), expected)
    for layer in adapted_layers(model).values():
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert A.dtype == B.dtype == torch.float32
        assert float((B @ A).detach().norm()) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_the_live_pair_and_its_companion(method):
    model = method(**FIELDS).apply(tiny_llama())
    for layer in adapted_layers(model).values():
        W, r, s = base_rows(layer), 4, 2.0
        A, B = method(**FIELDS).slots().init.factors(W, r, s)
        lora_A, lora_B = layer.lora_A["default"], layer.lora_B["default"]
        assert torch.equal(lora_A.live, A)
        assert torch.equal(lora_B.live, B)
        assert torch.equal(lora_A.history, A)
        assert torch.equal(lora_B.history, -B)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (8, 16.0, True)


@pytest.mark.parametrize("method", METHODS)
def test_the_scaling_never_moves_the_start(method):
    expected = logits(tiny_llama())
    for alpha in (0.5, 4.0, 64.0):
        model = method(r=4, lora_alpha=alpha).apply(tiny_llama())
        assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_weight_gets_the_same_factors(method):
    base = tiny_llama()
    first, second = (base.model.layers[i].self_attn.q_proj for i in (0, 1))
    second.load_state_dict(first.state_dict())
    model = method(**FIELDS).apply(base)
    layers = [model.base_model.model.model.layers[i].self_attn.q_proj for i in (0, 1)]
    for name in ("lora_A", "lora_B"):
        one, other = (getattr(layer, name)["default"].weight for layer in layers)
        assert torch.equal(one, other)
    again = method(**FIELDS).apply(tiny_llama(), seed=9)
    expected = method(**FIELDS).apply(tiny_llama(), seed=3)
    assert same_bits(get_peft_model_state_dict(again), get_peft_model_state_dict(expected))


# At every step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [tiny_bert, tiny_llama, tiny_gpt2])
def test_what_is_saved_is_the_model_and_the_base_is_untouched(method, build, tmp_path):
    expected = logits(build())
    run = loop(method(**FIELDS), build())
    for step in range(STEPS):
        train(run, step, step + 1)
        run.model.save_pretrained(tmp_path / str(step))
        vanilla = PeftModel.from_pretrained(build(), tmp_path / str(step))
        close(logits(vanilla), logits(run.model))
        with run.model.disable_adapter():
            assert torch.equal(logits(run.model), expected)
    assert float((logits(run.model) - expected).abs().max()) > 1e-2
    kept = build().state_dict()
    unloaded = run.model.unload().state_dict()
    assert all(torch.equal(unloaded[n], t) for n, t in kept.items() if "classifier" not in n)


@pytest.mark.parametrize("method", METHODS)
def test_merged_is_the_model_to_rounding(method):
    run = train(loop(method(**FIELDS), tiny_llama().double()))
    expected = logits(run.model)
    close(logits(run.model.merge_and_unload(safe_merge=True)), expected, 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_resume_at_every_step_gives_the_same_bits(method):
    chosen = method(**FIELDS, lora_dropout=0.1)
    torch.manual_seed(11)
    expected = get_peft_model_state_dict(train(loop(chosen, tiny_bert(dropout=0.1))).model)
    for cut in range(1, STEPS):
        torch.manual_seed(11)
        state = train(loop(chosen, tiny_bert(dropout=0.1)), 0, cut).state_dict()
        torch.manual_seed(12)
        resumed = loop(chosen, tiny_bert(dropout=0.1))
        resumed.load_state_dict(state)
        train(resumed, cut)
        assert same_bits(get_peft_model_state_dict(resumed.model), expected)


def test_resume_takes_the_companion_of_the_checkpoint():
    """Another LAPACK may give other signs: what counts is what was saved."""
    straight = train(loop(PiSSA(niter=0, svd_seed=1, **FIELDS), tiny_llama()), 0, 2)
    state = copy.deepcopy(straight.state_dict())
    resumed = loop(PiSSA(niter=0, svd_seed=2, **FIELDS), tiny_llama())
    resumed.load_state_dict(state)
    saved = [get_peft_model_state_dict(train(run, 2).model) for run in (straight, resumed)]
    assert same_bits(*saved)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_adam_step_moves_both_factors_by_the_learning_rate(method):
    run = loop(method(r=2, lora_alpha=2.0), tiny_llama())
    before = {name: p.detach().clone() for name, p in run.trainable().items()}
    train(run, 0, 1)
    for name, parameter in run.trainable().items():
        moved = (parameter - before[name]).abs()
        assert float(((moved - 1e-2).abs() < 1e-3).float().mean()) > 0.9, name


# Exports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_export_as_lora(method, tmp_path):
    run = train(loop(method(**FIELDS), tiny_llama()))
    exact = export_lora(run.model, tmp_path / "exact")
    assert (exact.rank, exact.relative_error) == (8, 0.0)
    enough = export_lora(run.model, tmp_path / "enough", rank=8)
    assert (enough.rank, enough.relative_error) == (8, 0.0)
    cut = export_lora(run.model, tmp_path / "cut", rank=4)
    assert cut.rank == 4
    missing = total = 0.0
    for layer in adapted_layers(run.model).values():
        values = torch.linalg.svdvals(effective_weight(layer, "default") - base_rows(layer))
        missing, total = missing + values[4:].square().sum(), total + values.square().sum()
    assert cut.relative_error == pytest.approx(float((missing / total).sqrt()), rel=1e-3)
    assert cut.relative_error > 1e-3
    assert export_merged(run.model, tmp_path / "merged").relative_error < 1e-5


# With other parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("init", [Olora(), Pissa()])
def test_with_stacks_that_are_there_already(init):
    method = Parts(parts=Slots(layer=StackedLoRA(), init=init), **FIELDS)
    alone = Parts(parts=Slots(init=init), **FIELDS)
    models = [m.apply(tiny_llama()) for m in (method, alone)]
    assert same_bits(*(get_peft_model_state_dict(model) for model in models))
    close(logits(models[0]), logits(models[1]))


@pytest.mark.parametrize("init", [Olora(), Pissa()])
@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_with_magnitudes(init, build, tmp_path):
    method = Parts(parts=Slots(layer=Dora(), init=init), **FIELDS)
    expected = logits(build())
    run = loop(method, build())
    close(logits(run.model), expected)
    for layer in run.layers.values():
        m = layer.lora_magnitude_vector["default"].weight
        assert torch.equal(m, row_norm_sq(base_rows(layer)).sqrt())
    for step in range(STEPS):
        train(run, step, step + 1)
        run.model.save_pretrained(tmp_path / str(step))
        vanilla = PeftModel.from_pretrained(build(), tmp_path / str(step))
        close(logits(vanilla), logits(run.model), 1e-5)
        with run.model.disable_adapter():
            assert torch.equal(logits(run.model), expected)
    resumed = loop(method, build())
    resumed.load_state_dict(train(loop(method, build()), 0, 2).state_dict())
    train(resumed, 2)
    assert same_bits(*(get_peft_model_state_dict(r.model) for r in (resumed, run)))


def test_norms_that_evaluation_remembers_follow_the_factors():
    method = Parts(parts=Slots(layer=Dora(), init=Olora()), **FIELDS)
    model = method.apply(tiny_llama())
    logits(model)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B["default"].live.mul_(3.0)
    fresh = method.apply(tiny_llama())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), logits(fresh))


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_that_does_not_fit_is_refused(method):
    with pytest.raises(MethodError, match=r"rank 17 is larger than the layer .*k_proj"):
        method(r=17).apply(tiny_llama())


@pytest.mark.parametrize("layer", [Slots().layer, Dora()])
def test_an_embedding_is_refused(layer):
    method = Parts(
        parts=Slots(layer=layer, init=Olora()), target_modules=["embed_tokens", "q_proj"], **FIELDS
    )
    with pytest.raises(MethodError, match=r"embed_tokens is a Embedding, .* target_modules"):
        method.apply(tiny_llama())
