"""What must hold of COLA: links of different ranks on a tiny Llama and BERT, and on a quadratic."""

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn

from chain_toy import Tanh, chained, mean_square
from models import batch, rows_for, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method_registry import get_method
from rankwright.errors import MethodError
from rankwright.methods import COLA, LoRA
from rankwright.procedures.chain.chain import Chain
from trainers import adapter, build_trainer

BUILDS = [tiny_bert, tiny_llama]
STEPS = 9
RANKS = {"r": 4, "ranks": [4, 2, 1]}


def batches(model, steps=STEPS, size=4):
    rows = rows_for(model, steps * size)
    return [batch(rows[i * size : (i + 1) * size]) for i in range(steps)]


@torch.no_grad()
def logits(model):
    return model.eval()(**batch(rows_for(model.get_base_model(), 3, seed=7))).logits


def loop(method, build, **options):
    options = {"lr": 1e-2, "weight_decay": 0.1, "seed": 5, **options}
    return Loop(method.apply(build(), seed=3), method, total_steps=STEPS, **options)


def train(run, steps=range(STEPS)):
    data = batches(run.model.get_base_model())
    for step in steps:
        run.train_step(data[step])
    return run


def dropped_bert():
    return tiny_bert(dropout=0.1)


def double_llama():
    return tiny_llama().double()


@pytest.mark.parametrize("build", [dropped_bert, tiny_llama])
def test_one_link_is_lora_bit_for_bit(build):
    shared = {"r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1}
    states = []
    for method in (LoRA(**shared), COLA(rounds=1, **shared)):
        torch.manual_seed(11)
        run = train(loop(method, build, max_grad_norm=1.0))
        run.finish()
        states.append(get_peft_model_state_dict(run.model))
        states[-1]["logits"] = logits(run.model)
    assert same_bits(*states)


# At a knot ---------------------------------------------------------------------------------------


class Knots(Loop):
    """A loop that keeps what every `after_step` did to the logits, relative to their size."""

    def fire(self, event):
        before = logits(self.model) if event == "after_step" else None
        super().fire(event)
        if before is not None:
            self.jump = float((logits(self.model) - before).norm() / before.norm())
            self.model.train()


@pytest.mark.parametrize(("build", "allowed"), [(double_llama, 1e-12), (tiny_bert, 1e-6)])
def test_a_knot_does_not_change_the_function(build, allowed):
    method = COLA(**RANKS)
    run = Knots(method.apply(build()), method, total_steps=STEPS, lr=1e-2)
    for data in batches(run.model.get_base_model()):
        run.train_step(data)
        assert run.jump <= allowed


def test_a_link_starts_along_the_full_gradient():
    """dL/dA = 0 and dL/dB = s G A^T right after a knot, G at the finished links."""
    generator = torch.Generator().manual_seed(0)
    W, x, y = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((5, 6), (9, 6), (9, 5))
    )
    model, method = chained(Tanh([W]), Chain(rounds=3, ranks=[3, 2, 1]), r=3, lora_alpha=6)
    run = Loop(model, method, total_steps=6, lr=1e-2, loss=mean_square)
    for _ in range(2):
        run.train_step((x, y))
    (stack,) = run.procedure.boosters.stacks.values()
    dense = (W + stack.layer.get_delta_weight("default")).detach().requires_grad_()
    (G,) = torch.autograd.grad(nn.functional.mse_loss(x @ dense.T, y), dense)
    mean_square(model, (x, y)).backward()
    assert not stack.A.live.grad.any()
    gradient, A = stack.B.live.grad, stack.A.active
    torch.testing.assert_close(gradient[:, :2], 2 * G @ A.T, rtol=1e-12, atol=1e-14)
    assert not gradient[:, 2:].any()  # the third rank rests


@pytest.mark.parametrize("reset_head", [False, True])
def test_moments_after_a_knot(reset_head):
    run = loop(COLA(rounds=3, reset_head=reset_head), tiny_bert)
    head = [p for n, p in run.model.named_parameters() if "modules_to_save" in n]
    assert len(head) == 2
    train(run, range(3))
    assert [p in run.optimizer.state for p in head] == [not reset_head] * 2
    live = [p for s in run.procedure.boosters.stacks.values() for p in s.parameters]
    assert not any(p in run.optimizer.state for p in live)
    run.train_step(batches(run.model.get_base_model())[3])
    assert all(run.optimizer.state[p]["step"] == 1 for p in live)
    assert all(run.optimizer.state[p]["step"] == (1 if reset_head else 4) for p in head)


def test_a_link_that_did_not_learn_is_dropped():
    def second_rests(steps):
        return lambda step: float(not 3 <= step < 6)

    run = train(loop(COLA(lr_policy="global", **RANKS), double_llama, schedule=second_rests))
    run.finish()
    assert {stack.A.finished for stack in run.procedure.boosters.stacks.values()} == {5}
    assert run.procedure.boosters.kept[next(iter(run.layers))] == [0, 2]


# The sum -----------------------------------------------------------------------------------------


class Sum(Loop):
    """A loop that adds up the product of every link just before it is absorbed."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.total = {}

    def fire(self, event):
        if event == "after_step" and self.step % 3 == 2:
            for name, stack in self.procedure.boosters.stacks.items():
                product = stack.B.active.detach() @ stack.A.active.detach()
                self.total[name] = self.total.get(name, 0.0) + 4.0 * product
        super().fire(event)


def test_the_update_is_the_sum_of_the_links():
    method = COLA(**RANKS)
    run = train(Sum(method.apply(double_llama()), method, total_steps=STEPS, lr=1e-2))
    run.finish()
    for name, layer in run.layers.items():
        delta = layer.get_delta_weight("default").detach()
        torch.testing.assert_close(delta, run.total[name], rtol=1e-12, atol=1e-14)
        assert torch.linalg.matrix_rank(delta) == 4 + 2 + 1
        assert layer.scaling["default"] == 4.0


def exact_links(ranks, sigma=(4.0, 3.0, 2.0, 1.0), kappa=200):
    """Squared residual after every link of gradient descent on |D - M|^2 / 2."""
    generator = torch.Generator().manual_seed(3)
    left, right = (
        torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
        for _ in range(2)
    )
    M = left @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ right
    eye = torch.eye(4, dtype=torch.float64)
    chain = Chain(ranks=ranks)
    model, method = chained(Tanh([torch.zeros_like(M)]), chain, r=max(ranks), lora_alpha=max(ranks))

    def loss(model, target):
        return (model(eye).T - target).square().sum() / 2

    steps = kappa * len(ranks)
    options = {"lr": 0.15, "optimizer": torch.optim.SGD, "schedule": constant_schedule}
    run = Loop(model, method, total_steps=steps, loss=loss, **options)
    residuals = []
    for step in range(steps):
        run.train_step(M)
        if (step + 1) % kappa == 0:
            residuals.append(2 * float(loss(model, M).detach()))
    return residuals


def test_exact_links_leave_the_small_singular_values():
    assert exact_links([1, 2]) == pytest.approx([14, 1], rel=1e-9)
    assert exact_links([1, 1])[-1] == pytest.approx(exact_links([2])[-1], rel=1e-9)


# At every step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
def test_the_saved_adapter_is_the_model_at_every_step(build, tmp_path):
    run = loop(COLA(**RANKS), build)
    with run.model.disable_adapter():
        base = logits(run.model)
    for step, data in enumerate(batches(run.model.get_base_model())):
        run.train_step(data)
        run.model.save_pretrained(tmp_path / str(step))
        vanilla = PeftModel.from_pretrained(build(), tmp_path / str(step))
        torch.testing.assert_close(logits(vanilla), logits(run.model), rtol=0, atol=3e-6)
        with run.model.disable_adapter():
            assert torch.equal(logits(run.model), base)
    ranks = [4, 4, 6, 6, 6, 7, 7, 7, 7]  # the next link's rank is there as soon as it starts
    saved = [PeftModel.from_pretrained(build(), tmp_path / str(step)) for step in range(STEPS)]
    assert [model.peft_config["default"].r for model in saved] == ranks


@pytest.mark.parametrize("build", [dropped_bert, tiny_llama])
def test_resume_at_every_step_gives_the_same_bits(build):
    method = COLA(lora_dropout=0.1, reset_head=True, **RANKS)
    torch.manual_seed(11)
    expected = get_peft_model_state_dict(train(loop(method, build)).model)
    for cut in (0, 2, 4, 6):
        torch.manual_seed(11)
        state = train(loop(method, build), range(cut)).state_dict()
        torch.manual_seed(12)
        resumed = loop(method, build)
        resumed.load_state_dict(state)
        train(resumed, range(cut, STEPS))
        assert same_bits(get_peft_model_state_dict(resumed.model), expected)


# Under a Trainer ---------------------------------------------------------------------------------


def test_the_trainer_resumes_in_the_middle_of_the_second_link(tmp_path):
    def trainer(folder, **changes):
        method = COLA(lora_dropout=0.1, **RANKS)
        return build_trainer(method, "bert", folder, max_steps=STEPS, **changes)

    straight = trainer(tmp_path / "straight", save_strategy="steps", save_steps=4)
    straight.train()
    resumed = trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-4"))
    assert same_bits(adapter(resumed.model), adapter(straight.model))


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (16, {}),
        (17, {}),
        (17, {"dataloader_drop_last": True}),
        (18, {"gradient_accumulation_steps": 2}),
        (19, {"gradient_accumulation_steps": 2, "dataloader_drop_last": True}),
    ],
)
def test_an_epoch_is_as_long_as_the_trainers(rows, changes, tmp_path):
    method = COLA(r=2, epochs_per_round=1)
    options = {"rows": rows, "max_steps": -1, "num_train_epochs": 2, **changes}
    trainer = build_trainer(method, "bert", tmp_path, **options)
    trainer.train()
    expected = trainer.state.max_steps // 2
    assert trainer.run.steps_per_epoch() == expected
    assert [phase.steps for phase in trainer.run.phases] == [expected] * 2


# The method --------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_its_page():
    method = COLA()
    chain = method.slots().procedure
    assert get_method("cola") is COLA
    assert (method.r, method.lora_alpha, method.target_modules) == (8, 16.0, "all-linear")
    assert (chain.lengths(600), chain.lengths(45)) == ([200] * 3, [23, 22])
    assert (chain.ranks, chain.frozen, chain.layers_per_round) == (None, None, None)
    assert (chain.reset_optimizer, chain.reset_head, chain.lr_policy) == (True, False, "restart")
    assert (chain.mode, chain.rank_cap, chain.shrinkage) == ("history", 64, 1.0)


@pytest.mark.parametrize("field", [{"rounds": 0}, {"ranks": []}, {"frozen": "C"}])
def test_a_wrong_field_is_refused_at_once(field):
    with pytest.raises(MethodError, match=next(iter(field))):
        COLA(**field)
