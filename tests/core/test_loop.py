from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from models import batch, classification_rows, rows_for, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method import Method
from rankwright.core.slots import Penalty, Procedure, ProcedureState, Slots
from rankwright.errors import MethodError, TrainingError
from rankwright.kernels import parameter_epoch
from rankwright.methods import LoRA
from uneven import KINDS

ROWS = classification_rows(24)


def batches(size=4):
    return [batch(ROWS[i : i + size]) for i in range(0, len(ROWS), size)]


def trained(method, steps=6, **options):
    model = method.apply(tiny_bert())
    run = Loop(model, method, total_steps=steps, lr=1e-2, **options)
    losses = [run.train_step(b) for b in batches()[:steps]]
    run.finish()
    return model, losses


def test_the_loop_is_adamw_on_the_loss():
    model, _ = trained(LoRA(), steps=3, schedule=constant_schedule, weight_decay=0.1)
    control = LoRA().apply(tiny_bert())
    matrices = [p for p in control.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in control.parameters() if p.requires_grad and p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for b in batches()[:3]:
        control(**b).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same_bits(model.state_dict(), control.state_dict())


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_micro_batches_equal_one_large_batch(build):
    rows = rows_for(build(), 8)
    states = []
    for parts in ([batch(rows)], [batch(rows[:4]), batch(rows[4:])]):
        model = LoRA().apply(build().double())
        run = Loop(model, LoRA(), total_steps=1, lr=1e-2, optimizer=torch.optim.SGD)
        run.train_step(*parts)
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-9, atol=1e-12)


def stacked(rows):
    return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}


def one_step(kind, *parts, **options):
    """The loss and the weights after a step of gradient descent."""
    model = LoRA(r=2).apply(kind.build(), seed=3)
    run = Loop(model, LoRA(r=2), total_steps=1, lr=0.5, optimizer=torch.optim.SGD, **options)
    loss = run.train_step(*[stacked(part) for part in parts])
    return loss, {name: p.detach() for name, p in run.trainable().items()}


@pytest.mark.parametrize("name", KINDS)
def test_micro_batches_count_by_their_targets(name):
    """One row has none."""
    rows = KINDS[name].rows()
    loss, expected = one_step(KINDS[name], rows)
    for parts in ([[row] for row in rows], [rows[:3], rows[3:]]):
        again, found = one_step(KINDS[name], *parts)
        assert again == pytest.approx(loss, rel=1e-6)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-8, msg=key)


def test_targets_of_ones_own():
    """A loss that scores the first position of every row alone."""

    def loss(model, inputs):
        logits = model(input_ids=inputs["input_ids"]).logits[:, 0]
        return torch.nn.functional.cross_entropy(logits, inputs["input_ids"][:, 0] % 3)

    kind = KINDS["token classes"]
    rows = kind.rows()
    options = {"loss": loss, "targets": lambda _model, inputs: len(inputs["input_ids"])}
    _, expected = one_step(kind, rows, **options)
    _, found = one_step(kind, rows[:3], rows[3:], **options)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-8, msg=key)


def test_a_step_without_targets_says_so():
    kind = KINDS["causal"]
    with pytest.raises(TrainingError, match="no token of step 0 is scored"):
        one_step(kind, [kind.rows()[1]])


def test_resume_at_every_step_gives_the_same_bits():
    expected, _ = trained(LoRA(lora_dropout=0.1))
    for cut in range(1, 6):
        method = LoRA(lora_dropout=0.1)
        first = Loop(method.apply(tiny_bert()), method, total_steps=6, lr=1e-2)
        for b in batches()[:cut]:
            first.train_step(b)
        state = first.state_dict()
        torch.manual_seed(99)
        model = method.apply(tiny_bert(), seed=7)
        second = Loop(model, method, total_steps=6, lr=1e-2)
        second.load_state_dict(state)
        for b in batches()[cut:]:
            second.train_step(b)
        assert same_bits(model.state_dict(), expected.state_dict()), cut


def test_resume_restores_the_random_state_of_the_device(monkeypatch):
    device, restored = torch.arange(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: device)
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    run = Loop(LoRA().apply(tiny_bert()), LoRA(), total_steps=1)
    for there in (True, False):  # the run goes on where there is such a device, or without
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        state = run.state_dict()
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        run.load_state_dict(state)
    assert len(restored) == 1
    assert torch.equal(restored[0], device)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    model = LoRA().apply(tiny_bert())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = Loop(model, LoRA(), total_steps=2, loss=lambda m, b: m(**b).loss * float("nan"))
    with pytest.raises(TrainingError, match="the loss at step 0 is nan"):
        run.train_step(batches()[0])
    assert same_bits(before, model.state_dict())
    assert parameter_epoch.current_epoch() is None  # parameters may change again


def test_more_steps_than_planned_are_refused():
    model = LoRA().apply(tiny_bert())
    run = Loop(model, LoRA(), total_steps=1)
    run.train_step(batches()[0])
    with pytest.raises(TrainingError, match="all 1 steps of this run are done"):
        run.train_step(batches()[1])


def test_a_model_without_adapter_is_refused():
    with pytest.raises(MethodError, match=r"call model = method\.apply"):
        Loop(tiny_bert(), LoRA(), total_steps=1)


def test_gradients_replay_the_random_state_and_leave_it():
    method = LoRA(lora_dropout=0.5)
    model = method.apply(tiny_bert())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)

    class Replaying(Procedure):
        def start(self, run):
            state = ProcedureState(run)
            state.replays = True
            return state

    @dataclass(frozen=True, kw_only=True)
    class Probe(LoRA):
        name: ClassVar[str] = "probe"

        def slots(self):
            return Slots(procedure=Replaying())

    run = Loop(model, Probe(lora_dropout=0.5), total_steps=1, schedule=constant_schedule)
    seen = {}

    def watch(event):
        if event == "after_backward":
            parameters = list(run.trainable().values())
            seen["grads"] = [p.grad.clone() for p in parameters]
            before = torch.get_rng_state()
            seen["again"] = run.gradients(parameters, run.micro_batches)
            assert torch.equal(before, torch.get_rng_state())
        Loop.fire(run, event)

    run.fire = watch
    run.train_step(batches()[0], batches()[1])
    for grad, again in zip(seen["grads"], seen["again"], strict=True):
        torch.testing.assert_close(grad, again, rtol=1e-5, atol=1e-8)


@dataclass(frozen=True)
class SquaredNorm(Penalty):
    weight: float = 0.1

    def __call__(self, run):
        return self.weight * sum((p**2).sum() for p in run.trainable().values())


@dataclass(frozen=True, kw_only=True)
class Penalised(Method):
    name: ClassVar[str] = "penalised"

    def slots(self):
        return Slots(penalty=SquaredNorm())


@pytest.mark.parametrize("parts", [1, 2])
def test_a_penalty_counts_once_a_step(parts):
    def step(method):
        model = method.apply(tiny_bert().double())
        run = Loop(
            model, method, total_steps=1, lr=1.0, optimizer=torch.optim.SGD,
            schedule=constant_schedule,
        )  # fmt: skip
        before = {n: p.detach().clone() for n, p in run.trainable().items()}
        run.train_step(*[batches()[i] for i in range(parts)])
        return before, dict(run.trainable())

    before, plain = step(LoRA())
    _, penalised = step(Penalised())
    for name, value in before.items():
        torch.testing.assert_close(penalised[name], plain[name] - 0.2 * value)


def test_an_event_that_never_fires_is_an_error():
    class Needy(ProcedureState):
        needs = frozenset({"after_step"})

    class NeedyProcedure(Procedure):
        def start(self, run):
            return Needy(run)

    @dataclass(frozen=True, kw_only=True)
    class Probe(LoRA):
        name: ClassVar[str] = "needy"

        def slots(self):
            return Slots(procedure=NeedyProcedure())

    run = Loop(Probe().apply(tiny_bert()), Probe(), total_steps=1)
    run.fire("before_step")
    with pytest.raises(TrainingError, match=r"needs the events \['after_step'\]"):
        run.finish()
