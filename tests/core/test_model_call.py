"""Penalties on outputs: what they see of a forward, and how the engines add them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from models import batch, causal_rows, rows_for, tiny_bert, tiny_llama
from rankwright.core.composite import PenaltySum
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method import Method
from rankwright.core.model_call import ModelCall, body_of, evaluation_mode, watch_calls
from rankwright.core.run import Run
from rankwright.core.slots import Penalty, Procedure, Slots
from rankwright.errors import MethodError
from rankwright.methods import LoRA
from rankwright.penalties import Gram
from trainers import build_trainer


def adapted(base: PreTrainedModel) -> Any:
    """LoRA away from its start, in training mode."""
    model = LoRA(r=2, lora_alpha=4).apply(base)
    draw = torch.Generator().manual_seed(4)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.copy_(torch.randn(p.shape, generator=draw))
    return model.train()


def grads(model: Any, value: Tensor) -> list[Tensor]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(value, trained, materialize_grads=True))


INPUTS = batch(causal_rows(3))
WHERE = torch.zeros(3, 12, dtype=torch.bool)
WHERE[0, 2:5] = WHERE[2, 7] = True


def watched(model: Any, **inputs: Any) -> ModelCall:
    with watch_calls(model, None) as calls:
        model(**inputs)
    (call,) = calls
    return call


# What is seen -----------------------------------------------------------------------------------


def test_a_call_with_logits() -> None:
    model = adapted(tiny_llama())
    call = watched(model, **INPUTS)
    assert call.by_position
    assert torch.equal(call.labels, INPUTS["labels"])  # type: ignore[arg-type]
    assert "labels" not in call.kwargs
    assert torch.equal(call.everywhere, torch.ones(3, 12, dtype=torch.bool))
    assert torch.equal(call.logits(WHERE), call.output.logits[WHERE])
    assert not model._forward_hooks


def test_a_call_whose_logits_were_never_formed() -> None:
    """TRL's fused head: the logits come from the hidden states, with the same gradient."""
    plain, fused = adapted(tiny_llama()), adapted(tiny_llama())
    add_fused_lm_head(fused.get_base_model())
    call, reference = watched(fused, **INPUTS, fused_lm_head=True), watched(plain, **INPUTS)
    assert getattr(call.output, "logits", None) is None
    assert call.by_position
    assert call.everywhere.shape == (3, 12)
    ran = count_calls(fused.get_base_model().model.layers[0])
    found, expected = call.logits(WHERE), reference.logits(WHERE)
    assert ran == []  # the body is not computed again
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        grads(fused, found.square().sum()), grads(plain, expected.square().sum()), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert "forward" not in fused.get_base_model().model.__dict__


def test_the_models_own_head_makes_them() -> None:
    """Also where it does something to the logits, as Gemma's softcapping."""
    base = tiny_llama()
    head = base.lm_head.forward
    base.lm_head.forward = lambda x: 3 * torch.tanh(head(x))
    add_fused_lm_head(base)
    model = adapted(base)
    found = watched(model, **INPUTS, fused_lm_head=True).logits(WHERE)
    torch.testing.assert_close(found, model(input_ids=INPUTS["input_ids"]).logits[WHERE])


@pytest.mark.parametrize("fused", [False, True])
def test_the_base_answers_for_the_same_inputs(fused: bool) -> None:
    model = adapted(tiny_llama())
    if fused:
        add_fused_lm_head(model.get_base_model())
    call = watched(model, **INPUTS, **({"fused_lm_head": True} if fused else {}))
    trainable = [p.requires_grad for p in model.parameters()]
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    found = call.base_logits(WHERE)
    expected = tiny_llama().eval()(input_ids=INPUTS["input_ids"]).logits[WHERE]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not found.requires_grad
    assert trainable == [p.requires_grad for p in model.parameters()]
    assert model.training
    assert hooks == [dict(module._forward_hooks) for module in model.modules()]


def test_the_base_of_a_classifier_is_its_own_head_at_the_start_without_dropout() -> None:
    model = adapted(tiny_bert(dropout=0.5))
    inputs = batch(rows_for(model.get_base_model(), 4))
    call = watched(model, **inputs)
    assert not call.by_position
    head = model.get_base_model().classifier.modules_to_save["default"]
    with torch.no_grad():
        head.weight.add_(1.0)
    del inputs["labels"]
    expected = tiny_bert(dropout=0.5).eval()(**inputs).logits
    assert torch.equal(call.base_logits(), expected)


def test_gradients_of_the_step_survive_the_base_between_forward_and_backward() -> None:
    model = adapted(tiny_llama())
    expected = grads(model, model(**INPUTS).loss)
    with watch_calls(model, None) as calls:
        loss = model(**INPUTS).loss
    calls[0].base_logits(WHERE)
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(torch.equal(p.grad, g) for p, g in zip(trained, expected, strict=True))  # type: ignore[arg-type]


def test_calls_without_gradients_are_not_of_the_step() -> None:
    model = adapted(tiny_llama())
    with watch_calls(model, None) as calls:
        with torch.no_grad():
            model(**INPUTS)
        model(**INPUTS)
    assert len(calls) == 1


def test_a_model_without_logits_is_refused() -> None:
    model = adapted(tiny_bert())
    call = ModelCall(model, (), {}, None, object(), None)
    with pytest.raises(MethodError, match="without logits; a penalty on outputs needs a model"):
        call.logits()


def test_bodies() -> None:
    assert body_of(adapted(tiny_llama())) is not None
    assert body_of(adapted(tiny_bert())) is None  # a classifier has no output embeddings


def test_evaluating_puts_every_mode_back() -> None:
    model = tiny_bert().train()
    model.classifier.eval()
    before = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert before == [module.training for module in model.modules()]


def count_calls(module: torch.nn.Module) -> list[int]:
    seen: list[int] = []
    module.register_forward_hook(lambda *_: seen.append(1))
    return seen


# How it is added ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Squares(Penalty):
    """The mean square of the logits; with `base`, of their distance from the base model's."""

    weight: float = 0.5
    base: bool = False

    def of_outputs(self, run: Run, call: ModelCall) -> Tensor:
        z = call.logits()
        distance = z - run.base_logits(call) if self.base else z
        value = self.weight * distance.square().mean()
        run.note("squares", value)
        return value

    def forwards(self) -> int:
        return int(self.base)


@dataclass(frozen=True, kw_only=True)
class Squared(Method):
    """LoRA with such a penalty."""

    name: ClassVar[str] = "squared"
    summary: ClassVar[str] = "-"
    reference: ClassVar[str] = "-"
    cost: ClassVar[str] = "-"

    penalty: Penalty | None = None

    def slots(self) -> Slots:
        return Slots(penalty=self.penalty)


def squared(**fields: Any) -> Method:
    return Squared(r=2, lora_alpha=4, penalty=Squares(**fields))


def loss_with_squares(model: Any, inputs: Any) -> Tensor:
    """The same, as a loss of one's own."""
    output = model(**inputs)
    loss: Tensor = output.loss + 0.5 * output.logits.square().mean()
    return loss


def trained(run: Loop) -> list[Tensor]:
    return [p.detach().clone() for p in run.trainable().values()]


def _penalty(run: Loop) -> float:
    assert run.metrics.get("penalty") == run.metrics.get("squares")
    return run.metrics.get("penalty", 0.0)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_loop_adds_it_to_the_loss_of_every_micro_batch(parts: int) -> None:
    rows = rows_for(tiny_bert(), 16)
    batches = [batch(rows[i : i + 4]) for i in range(0, 16, 4)]
    plain = LoRA(r=2, lora_alpha=4)
    runs = []
    for method, options in ((squared(), {}), (plain, {"loss": loss_with_squares})):
        run = Loop(
            *(method.apply(tiny_bert(), seed=1), method),
            total_steps=3,
            schedule=constant_schedule,
            **options,
        )
        losses = [run.train_step(*batches[:parts]) + _penalty(run) for _ in range(3)]
        runs.append((run, losses))
    (ours, our_losses), (theirs, their_losses) = runs
    assert our_losses == pytest.approx(their_losses, rel=1e-6)
    for found, expected in zip(trained(ours), trained(theirs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_trainer_adds_the_mean_over_micro_batches_whatever_normalises_the_loss(
    kind: str, tmp_path: Path
) -> None:
    """A causal model normalises by the step's tokens, a classifier by micro-batches."""
    fields = {"max_steps": 2, "dropout": False, "double": True}
    whole = build_trainer(squared(), kind, tmp_path, **fields)
    halves = build_trainer(
        *(squared(), kind, tmp_path),
        **fields,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    logged = []
    for trainer in (whole, halves):
        trainer.train()
        logged.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for one, two in zip(*logged, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)
        assert one["squares"] == pytest.approx(two["squares"], abs=1e-6)
    for p, q in zip(whole.run.trainable().values(), halves.run.trainable().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-8)


def test_an_evaluation_is_without_it(tmp_path: Path) -> None:
    rows = rows_for(tiny_bert(), 8, seed=3)
    results = [
        build_trainer(m, "bert", tmp_path, options={"eval_dataset": rows}).evaluate()["eval_loss"]
        for m in (squared(weight=9.0), LoRA(r=2, lora_alpha=4))
    ]
    assert results[0] == results[1]


def test_a_loss_asked_for_again_has_it_and_a_held_out_one_has_not() -> None:
    method = squared()
    inputs = batch(rows_for(tiny_bert(), 4))
    run = Loop(method.apply(tiny_bert()), method, total_steps=2, held_out=lambda _k: inputs)
    run.train_step(inputs)
    (mine,), (held_out,) = run.micro_batches, run.held_out(0)
    difference = run.loss(mine) - run.loss(held_out)
    logits = run.model(**inputs).logits
    torch.testing.assert_close(difference, 0.5 * logits.square().mean())


@pytest.mark.parametrize("parts", [1, 3])
def test_a_forward_of_the_base_is_a_third_of_a_pass(parts: int) -> None:
    method = squared(base=True)
    inputs = batch(rows_for(tiny_bert(), 4))
    run = Loop(method.apply(tiny_bert()), method, total_steps=4)
    for _ in range(2):
        run.train_step(*[inputs] * parts)
    assert run.passes == 2 + 2 / 3
    assert method.made_of().passes(3) == 4
    again = Loop(method.apply(tiny_bert()), method, total_steps=4)
    again.load_state_dict(run.state_dict())
    assert again.passes == run.passes


def test_several_penalties_of_both_kinds() -> None:
    both = PenaltySum((Gram(weight=1e-3), Squares(base=True)))
    assert both.reads_outputs()
    assert both.forwards() == 1
    assert not PenaltySum((Gram(), Gram(form="squared"))).reads_outputs()
    whole = Gram(weight=1e-3, rows=None, modules=None)
    method = LoRA(r=2).with_parts(penalty=[whole, Squares()])
    run = Loop(method.apply(tiny_bert()), method, total_steps=2)
    for _ in range(2):
        run.train_step(batch(rows_for(tiny_bert(), 4)))
        gram = whole(run)
    assert run.metrics["penalty"] > run.metrics["squares"] > 0
    assert float(gram.detach()) == pytest.approx(
        run.metrics["penalty"] - run.metrics["squares"], rel=0.1
    )


def test_a_warning_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    run = Loop(LoRA(r=2).apply(tiny_bert()), LoRA(r=2), total_steps=2)
    run.say_once("so it is")
    run.say_once("so it is")
    assert [record.getMessage() for record in caplog.records] == ["so it is"]


def test_without_such_a_penalty_no_hook_is_there() -> None:
    method = LoRA(r=2)
    run = Loop(method.apply(tiny_bert()), method, total_steps=2)
    hooks = []
    inputs = batch(rows_for(tiny_bert(), 4))

    def loss(model: Any, given: Any) -> Tensor:
        hooks.append(len(model._forward_hooks))
        result: Tensor = model(**given).loss
        return result

    run._loss = loss
    run.train_step(inputs)
    assert hooks == [0]
    assert type(run.slots.procedure) is Procedure
