"""The terms on outputs: their properties, which positions count, inert cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
)

from fake_forward import fake
from models import tiny_llama, tokens
from rankwright.core.loop import Loop
from rankwright.core.model_call import ModelCall, watch_calls
from rankwright.errors import MethodError
from rankwright.methods import LoRA
from rankwright.penalties import Outputs
from rankwright.penalties.outputs import consistency, covariance, entropy

ALONE: dict[str, Any] = {"consistency": 0.0, "diversity": 0.0, "spectral": 0.0}
TARGETS = r".*\.(c_attn|q_proj|query)"  # by name: those of every model here
TERMS = ("consistency", "diversity", "spectral")


def logits(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def only(term: str, **fields: Any) -> Outputs:
    return Outputs(**{**ALONE, term: 1.0, "consistency_schedule": "constant", **fields})


# Consistency --------------------------------------------------------------------------------------


def test_consistency_is_zero_where_the_softmaxes_agree_and_positive_elsewhere() -> None:
    z, shift = logits(5, 7), logits(5, 1, seed=1)
    assert torch.equal(consistency(z, z, 2.0), torch.zeros(5))
    torch.testing.assert_close(consistency(z + shift, z - shift, 2.0), torch.zeros(5).double())
    assert (consistency(logits(5, 7, seed=2), z, 2.0) > 0).all()


def test_consistency_at_a_high_temperature_is_half_the_variance_of_the_difference() -> None:
    base, z = logits(4, 9), logits(4, 9, seed=1)
    expected = 0.5 * (base - z).var(dim=1, correction=0)
    torch.testing.assert_close(consistency(base, z, 1e5), expected, rtol=1e-4, atol=0)


# Diversity ----------------------------------------------------------------------------------------


def test_entropy_has_its_ends() -> None:
    z = logits(6, 30)
    assert ((entropy(z, 5) > 0) & (entropy(z, 5) <= math.log(5))).all()
    equal = torch.zeros(2, 30, dtype=torch.float64)
    torch.testing.assert_close(entropy(equal, 5), torch.full((2,), math.log(5)).double())
    torch.testing.assert_close(entropy(z, 30), entropy(z, 0))
    assert torch.equal(entropy(z, 40), entropy(z, 0))


def test_covariance_of_known_columns() -> None:
    column = logits(8, 1)
    twice = torch.cat((column, column), dim=1)
    torch.testing.assert_close(covariance(twice), column.var() ** 2)
    torch.testing.assert_close(covariance(3 * twice), 81 * column.var() ** 2)
    apart = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert float(covariance(apart)) == 0


# Positions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("shift", [True, False])
def test_positions_that_do_not_count_get_no_gradient(term: str, shift: bool) -> None:
    z, base = logits(2, 6, 11).requires_grad_(), logits(2, 6, 11, seed=1)
    labels = torch.tensor([[-100, -100, 3, 4, 5, -100], [-100, 1, 2, -100, -100, -100]])
    penalty = only(term, causal_shift=shift, svd_k=2)
    penalty.of_outputs(*fake(z, base, labels)).backward()  # type: ignore[union-attr]
    counts = labels != -100
    counts = torch.cat((counts[:, 1:], torch.zeros(2, 1, dtype=torch.bool)), 1) if shift else counts
    assert torch.equal(z.grad.abs().sum(-1) > 0, counts)  # type: ignore[union-attr]


def tiny_gpt2() -> Any:
    torch.manual_seed(0)
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, **sizes))


def tiny_gemma3() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    images = {"image_size": 4, "patch_size": 2, "num_attention_heads": 2}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={"vocab_size": 64, **sizes, **heads, "max_position_embeddings": 32},
            vision_config={**sizes, **images},
            mm_tokens_per_image=1,
        )
    )


def tiny_masked() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return BertForMaskedLM(BertConfig(vocab_size=64, num_attention_heads=2, **sizes))


def called(model: Any, *args: Any, **kwargs: Any) -> tuple[Loop, ModelCall]:
    """A run of the adapted model, and a call of it."""
    method = LoRA(r=2, target_modules=TARGETS)
    run = Loop(method.apply(model), method, total_steps=1)
    with watch_calls(run.model, None) as calls:
        run.model(*args, **kwargs)
    (call,) = calls
    return run, call


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama, tiny_gemma3, tiny_masked])
def test_the_positions_are_those_of_the_models_own_loss(build: Any) -> None:
    ids = tokens(2)
    labels = torch.full_like(ids, -100)
    labels[0, 5:8], labels[1, 2] = ids[0, 5:8], ids[1, 2]
    run, call = called(build(), input_ids=ids, labels=labels)
    (grad,) = torch.autograd.grad(call.output.loss, call.output.logits)
    assert torch.equal(Outputs()._where(run, call), grad.abs().sum(-1) > 0)


def test_positions_of_a_call_by_position_and_of_embeddings() -> None:
    ids = tokens(2)
    expected = torch.ones_like(ids, dtype=torch.bool)
    expected[:, -1] = False
    model = tiny_llama()
    embeds = model.get_input_embeddings()(ids).detach()
    for run, call in (called(tiny_llama(), ids), called(model, inputs_embeds=embeds)):
        assert torch.equal(Outputs()._where(run, call), expected)
        assert Outputs().of_outputs(run, call) is not None


@pytest.mark.parametrize("task", ["TOKEN_CLS", "SEQ_2_SEQ_LM"])
def test_only_a_causal_model_shifts(task: str) -> None:
    z, base = logits(1, 4, 6).requires_grad_(), logits(1, 4, 6, seed=1)
    run, forward = fake(z, base, torch.tensor([[1, -100, -100, 2]]), task=task)
    only("consistency").of_outputs(run, forward).backward()  # type: ignore[union-attr]
    assert (z.grad.abs().sum(-1) > 0).tolist() == [[True, False, False, True]]  # type: ignore[union-attr]


def test_without_labels_the_attended_positions_count() -> None:
    z, base = logits(1, 4, 6).requires_grad_(), logits(1, 4, 6, seed=1)
    mask = torch.tensor([[0, 1, 1, 1]])
    run, forward = fake(z, base, attention_mask=mask, input_ids=mask)
    only("consistency").of_outputs(run, forward).backward()  # type: ignore[union-attr]
    assert (z.grad.abs().sum(-1) > 0).tolist() == [[True, True, True, False]]  # type: ignore[union-attr]


@pytest.mark.parametrize("term", TERMS)
def test_the_order_of_positions_does_not_matter(term: str) -> None:
    z, base, order = logits(1, 8, 11), logits(1, 8, 11, seed=1), torch.randperm(8)
    labels = torch.ones(1, 8, dtype=torch.long)
    penalty = only(term, causal_shift=False, svd_k=2)
    first = penalty.of_outputs(*fake(z, base, labels))
    second = penalty.of_outputs(*fake(z[:, order], base[:, order], labels))
    torch.testing.assert_close(first, second)


def test_nothing_counts_in_a_batch_without_targets() -> None:
    z = logits(2, 3, 5).requires_grad_()
    assert Outputs().of_outputs(*fake(z, z.detach(), torch.full((2, 3), -100))) is None


# Forms and weights --------------------------------------------------------------------------------


def test_tokens_and_classes_have_their_own_weights_and_forms() -> None:
    run, _ = fake(logits(2, 3), logits(2, 3), step=0, total_steps=4)
    assert Outputs()._weights(run, tokens=True) == {
        "consistency": 0.025,
        "diversity": 0.005,
        "spectral": 0.005,
    }
    assert list(Outputs()._weights(run, tokens=False).values()) == [0.15, 0.03, 0.03]
    z = logits(1, 12, 14)
    labels = torch.ones(1, 12, dtype=torch.long)
    by_task = {}
    for task in ("CAUSAL_LM", "TOKEN_CLS"):
        run, forward = fake(z, z, labels, task=task)
        Outputs(svd_k=3, causal_shift=False).of_outputs(run, forward)
        by_task[task] = run.noted
    Z = z[0]
    sigma = torch.linalg.svdvals(Z)
    top = float(sigma[:3].sum())
    assert by_task["CAUSAL_LM"]["spectral"] == pytest.approx(-top / float(Z.norm()))
    assert by_task["TOKEN_CLS"]["spectral"] == pytest.approx(-top / float(sigma.sum()))
    assert by_task["CAUSAL_LM"]["diversity"] == pytest.approx(-float(entropy(Z, 20).mean()))
    assert by_task["TOKEN_CLS"]["diversity"] == pytest.approx(float(covariance(Z)))


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (50, 0.55), (100, 0.1)])
def test_the_consistency_falls_to_a_tenth(step: int, expected: float) -> None:
    run, _ = fake(logits(2, 3), logits(2, 3), step=step, total_steps=100)
    assert Outputs(consistency=2.0)._weights(run, True)["consistency"] == pytest.approx(
        2 * expected
    )


@pytest.mark.parametrize(
    ("shape", "expected"), [("linear", [0, 0.5, 1, 1]), ("quadratic", [0, 0.25, 1, 1])]
)
def test_the_others_rise(shape: Any, expected: list[float]) -> None:
    penalty = Outputs(diversity=1.0, spectral=2.0, warmup=0.2, warmup_shape=shape)
    for step, value in zip((0, 10, 20, 90), expected, strict=True):
        weights = penalty._weights(
            fake(logits(1, 2), logits(1, 2), step=step, total_steps=100)[0], True
        )
        assert (weights["diversity"], weights["spectral"]) == (value, 2 * value)


def test_centring_takes_away_what_a_softmax_does_not_see() -> None:
    z, shift = logits(6, 9), 5 * logits(6, 1, seed=1)
    values = [
        only("spectral", svd_k=2, centred=True).of_outputs(*fake(given, given, task="SEQ_CLS"))
        for given in (z, z + shift)
    ]
    torch.testing.assert_close(*values)


def test_a_half_precision_model_is_judged_in_float32() -> None:
    z = logits(8, 6).bfloat16().requires_grad_()
    run, forward = fake(z, z.detach(), task="SEQ_CLS")
    value = Outputs(svd_k=2).of_outputs(run, forward)
    assert value is not None
    assert value.dtype == torch.float32


# Inert --------------------------------------------------------------------------------------------


def test_one_output_a_row_is_said_and_left_alone() -> None:
    z = logits(8, 1).requires_grad_()
    run, forward = fake(z, z.detach(), task="SEQ_CLS")
    run.base_logits = None  # not asked
    assert Outputs().of_outputs(run, forward) is None
    assert "no effect: with one output a row, as in regression" in run.said[0]


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes_make_the_spectral_term_a_constant(classes: int) -> None:
    z = logits(16, classes)
    run, forward = fake(z, logits(16, classes, seed=1), task="SEQ_CLS")
    assert Outputs().of_outputs(run, forward) is not None
    assert run.noted.keys() == {"consistency", "diversity"}
    assert f"svd_k = 5 singular values of outputs with 16 rows and {classes} columns" in run.said[0]
    again, forward = fake(logits(16, 6), logits(16, 6), task="SEQ_CLS")
    Outputs().of_outputs(again, forward)
    assert not again.said


def test_one_row_has_no_covariance() -> None:
    z = logits(1, 6)
    run, forward = fake(z, z, task="SEQ_CLS")
    Outputs(spectral=0.0).of_outputs(run, forward)
    assert run.said == ["a batch of one row has no covariance: no diversity term in it"]
    assert run.noted.keys() == {"consistency"}


def test_without_weights_nothing_is_read() -> None:
    assert Outputs().reads_outputs()
    assert not Outputs(**ALONE).reads_outputs()
    assert [Outputs().forwards(), Outputs(consistency=0.0).forwards()] == [1, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"diversity": -1.0}, r"Outputs\.diversity = -1\.0: expected at least 0, or None"),
        ({"top_k": 1}, r"top_k = 1: expected at least 2, or 0 for all"),
        ({"svd_k": 0}, "svd_k = 0: expected at least 1, or None"),
        ({"norm": "spectral"}, "norm = 'spectral': expected frobenius, nuclear or None"),
        ({"warmup": 2.0}, r"warmup = 2\.0: expected a share in"),
        ({"consistency_schedule": "linear"}, "expected cosine or constant"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        Outputs(**fields)


def test_a_model_that_answers_questions_is_refused_when_the_run_is_built() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=64, num_attention_heads=2, **sizes)
    for penalty, refused in ((Outputs(), True), (Outputs(**ALONE), False)):
        method = LoRA(r=2).with_parts(penalty=penalty)
        model = method.apply(BertForQuestionAnswering(config))
        if not refused:
            Loop(model, method, total_steps=1)
            continue
        with pytest.raises(MethodError, match="BertForQuestionAnswering gives start_logits and"):
            Loop(model, method, total_steps=1)
