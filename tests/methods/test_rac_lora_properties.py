"""What must hold of RAC-LoRA, on single layers and on a tiny Llama and BERT."""

import math
from dataclasses import replace

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn

from chain_toy import Tanh, chained
from models import batch, rows_for, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method_registry import get_method
from rankwright.errors import MethodError
from rankwright.methods import LoRA, RACLoRA, XGBLoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures.chain.chain import Chain
from rankwright.procedures.chain.frozen import (
    DRAWS,
    draw_frozen,
    gradient_bound,
    projected_gradient,
    projection,
)
from rankwright.procedures.chain.seeded import PLAIN, SEEDED, expand_seeded, save_seeded
from trainers import adapter, build_trainer

SIDES = ["A", "B"]
STEPS = 9
OUT, IN = 5, 6

every_side = pytest.mark.parametrize("side", SIDES)


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(side, round_=0, rank=2, kind="gaussian"):
    features = {"A": IN, "B": OUT}[side]
    options = {"side": side, "draw": kind, "rank": rank, "features": features}
    return draw_frozen(0, round_, "module", **options).double()


def batches(model, steps=STEPS, size=4):
    rows = rows_for(model, steps * size)
    return [batch(rows[i * size : (i + 1) * size]) for i in range(steps)]


@torch.no_grad()
def logits(model):
    return model.eval()(**batch(rows_for(model.get_base_model(), 3, seed=7))).logits


def loop(method, build, steps=STEPS, **options):
    options = {"lr": 1e-2, "weight_decay": 0.1, "seed": 5, **options}
    return Loop(method.apply(build(), seed=3), method, total_steps=steps, **options)


def train(run, steps=range(STEPS)):
    data = batches(run.model.get_base_model())
    for step in steps:
        run.train_step(data[step])
    return run


def quadratic(chain, *, r=2, alpha=2.0, rounds=1, lr=0.1):
    """One linear layer W (OUT, IN) under squared error: the run, W, and f as a function of W."""
    W, x, y = randn(OUT, IN), randn(20, IN, seed=1), randn(20, OUT, seed=2)
    model, method = chained(Tanh([W]), chain, r=r, lora_alpha=alpha)
    run = Loop(
        model,
        method,
        total_steps=rounds,
        lr=lr,
        optimizer=torch.optim.SGD,
        loss=lambda model, _: (model(x) - y).square().sum() / 40,
        schedule=constant_schedule,
    )
    L = float(torch.linalg.eigvalsh(x.T @ x / 20).max())
    return run, W, lambda W: (x @ W.T - y).square().sum() / 40, L


def gradient(f, W):
    return torch.func.grad(f)(W)


def weight(run, W):
    (layer,) = run.layers.values()
    return W + layer.get_delta_weight("default").detach()


# The projection ----------------------------------------------------------------------------------


@every_side
@pytest.mark.parametrize("kind", DRAWS)
def test_the_projection(side, kind):
    S = draw(side, kind=kind)
    H = projection(S, side)
    torch.testing.assert_close(H, H.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(H @ H, H, rtol=0, atol=1e-14)
    assert float(H.trace()) == pytest.approx(2, rel=1e-12)
    R = randn(2, 2, seed=3)
    turned = R @ S if side == "A" else S @ R
    torch.testing.assert_close(projection(turned, side), H, rtol=0, atol=1e-12)


@every_side
@pytest.mark.parametrize("kind", DRAWS)
def test_the_expected_projection_is_isotropic(side, kind):
    size, draws = {"A": IN, "B": OUT}[side], 2000
    S = [draw(side, t, kind=kind) for t in range(draws)]
    H = torch.stack([projection(s, side) for s in S])
    expected = 2 / size * torch.eye(size, dtype=torch.float64)
    error = H.std(0) / math.sqrt(draws)
    assert ((H.mean(0) - expected).abs() < 4 * error).all()
    sketch = torch.stack([s.T @ s if side == "A" else s @ s.T for s in S])
    scale = {"gaussian": 2 / size, "orthonormal": 2 / size, "unbiased": 1.0}[kind]
    expected = scale * torch.eye(size, dtype=torch.float64)
    error = sketch.std(0) / math.sqrt(draws)
    assert ((sketch.mean(0) - expected).abs() < 4 * error).all()


@every_side
def test_draws(side):
    assert draw(side).shape == {"A": (2, IN), "B": (OUT, 2)}[side]
    assert torch.equal(draw(side), draw(side))
    assert not torch.equal(draw(side), draw(side, round_=1))
    Q = draw(side, kind="orthonormal")
    gram = Q @ Q.T if side == "A" else Q.T @ Q
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-6)


# The exact step ----------------------------------------------------------------------------------


@every_side
@pytest.mark.parametrize("alpha", [0.5, 8.0])
@pytest.mark.parametrize("kind", DRAWS)
def test_exact_steps_go_down_as_far_as_promised(side, alpha, kind):
    chain = Chain(rounds=6, frozen=side, frozen_draw=kind, projected=True)
    run, W0, f, L = quadratic(chain, alpha=alpha, rounds=6, lr=0.0)
    gamma = 1 / L
    run.optimizer.param_groups[0]["lr"] = gamma
    run.scheduler.base_lrs = [gamma]
    W, norms = W0, []
    for t in range(6):
        G = gradient(f, W)
        (name,) = run.layers
        H = projection(run.procedure.boosters.frozen_factor(name, t).double(), side)
        step = G @ H if side == "A" else H @ G
        run.train_step(None)
        torch.testing.assert_close(weight(run, W0), W - gamma * step, rtol=1e-9, atol=1e-12)
        norms.append(float(G.square().sum()))
        after = weight(run, W0)
        assert f(W) - f(after) >= gamma / 2 * step.square().sum() * (1 - 1e-9)
        W = after
    least = run.metrics["lambda_min"]
    assert least == 2 / {"A": IN, "B": OUT}[side]
    assert sum(norms) / 6 <= gradient_bound(float(f(W0)), gamma, least, 6)


def test_at_full_rank_it_is_gradient_descent():
    S = randn(OUT, OUT, seed=4)
    chain = Chain(rounds=1, frozen="B", projected=True, round_basis=lambda *_: (None, S))
    run, W, f, _ = quadratic(chain, r=OUT)
    run.train_step(None)
    torch.testing.assert_close(weight(run, W), W - 0.1 * gradient(f, W), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("B", "change"), [((1.0, 0.0), (-1.5, 0.0)), ((1.0, 1.0), (-1.75, -1.75))])
def test_the_tiny_case(B, change):
    B, G = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (B, (3.0, 4.0)))
    A = -0.5 * projected_gradient(2.0 * B.T @ G, B, "B", 2.0)
    torch.testing.assert_close(2.0 * B @ A, torch.tensor(change, dtype=torch.float64)[:, None])


def test_a_plain_step_is_a_sketched_gradient_step():
    chain = Chain(rounds=1, frozen="A")
    run, W, f, _ = quadratic(chain, alpha=6.0)
    (name,) = run.layers
    A = run.procedure.boosters.frozen_factor(name, 0).double()
    run.train_step(None)
    expected = W - 0.1 * 3.0**2 * gradient(f, W) @ A.T @ A
    torch.testing.assert_close(weight(run, W), expected, rtol=1e-9, atol=1e-12)


def test_the_free_factors_loss_is_smooth():
    """On a quadratic with Hessian C in W, that in B is s^2 A C A^T for every row of B."""
    A, s = draw("A"), 3.0
    x, y = randn(20, IN, seed=1), randn(20, OUT, seed=2)
    W = randn(OUT, IN)

    def f(B):
        return (x @ (W + s * B @ A).T - y).square().sum() / 40

    hessian = torch.autograd.functional.hessian(f, torch.zeros(OUT, 2, dtype=torch.float64))
    block = s**2 * A @ (x.T @ x / 20) @ A.T
    expected = torch.einsum("ij,kl->ikjl", torch.eye(OUT, dtype=torch.float64), block)
    torch.testing.assert_close(hessian, expected, rtol=1e-10, atol=1e-12)


# The frozen factor -------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "build"), [("A", tiny_llama), ("B", tiny_bert)])
def test_the_frozen_factor_does_not_move(side, build):
    run = loop(RACLoRA(r=2, rounds=3, frozen=side), build)
    held = [p for group in run.optimizer.param_groups for p in group["params"]]
    factors = {n: getattr(s, side).live for n, s in run.procedure.boosters.stacks.items()}
    assert not any(p is q for p in held for q in factors.values())
    for step, data in enumerate(batches(run.model.get_base_model())):
        run.train_step(data)
        if step % 3 == 2:
            continue  # the next link has begun
        for name, factor in factors.items():
            assert torch.equal(
                factor.detach(), run.procedure.boosters.frozen_factor(name, step // 3)
            )
            assert factor.grad is None
            assert not factor.requires_grad
            assert factor not in run.optimizer.state
        with run.model.disable_adapter():
            pass
        assert not any(factor.requires_grad for factor in factors.values())


@every_side
def test_one_link_is_lora_with_a_frozen_factor(side):
    rac = RACLoRA(r=4, rounds=1, frozen=side)
    run = loop(rac, tiny_llama, max_grad_norm=1.0)
    method = LoRA(r=4, lora_alpha=rac.lora_alpha)
    model = method.apply(tiny_llama(), seed=3)
    for name, layer in adapted_layers(model).items():
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        frozen, free = (A, B) if side == "A" else (B, A)
        frozen.data.copy_(run.procedure.boosters.frozen_factor(name, 0))
        frozen.requires_grad_(False)
        free.data.zero_()
    plain = Loop(
        model, method, total_steps=STEPS, lr=1e-2, weight_decay=0.1, seed=5, max_grad_norm=1.0
    )
    states = [get_peft_model_state_dict(train(r).model) for r in (run, plain)]
    assert same_bits(*states)


@every_side
def test_half_the_parameters_are_trained(side):
    run = loop(RACLoRA(r=2, frozen=side), tiny_llama)
    sizes = {"A": "out_features", "B": "in_features"}
    expected = sum(2 * getattr(layer, sizes[side]) for layer in run.layers.values())
    assert sum(p.numel() for p in run.trainable().values()) == expected


def test_any_chain_can_freeze_a_factor():
    method = XGBLoRA(rounds=4, frozen="A", frozen_draw="orthonormal", layers_per_round=1)
    run = train(loop(method, tiny_llama, steps=8), range(8))
    run.finish()
    assert run.metrics["lambda_min"] == pytest.approx(1 / 48 / 3)  # the widest layer, 1 of 3
    uneven = train(loop(replace(method, selection="blocks"), tiny_llama, steps=8), range(8))
    assert "lambda_min" not in uneven.metrics
    name = next(name for name, kept in run.procedure.boosters.kept.items() if kept)
    (round_, *_), stack = run.procedure.boosters.kept[name], run.procedure.boosters.stacks[name]
    assert torch.equal(stack.A.history[:1], run.procedure.boosters.frozen_factor(name, round_))


# Memory ------------------------------------------------------------------------------------------


def kept_for_backward(method, steps=0, rows=64, width=48):
    """Bytes and shapes that one adapted layer keeps for the backward pass, its weights left out."""
    torch.manual_seed(0)
    x = torch.randn(rows, width, requires_grad=True)
    build = lambda: nn.Sequential(nn.Linear(width, width))  # noqa: E731
    run = loop(method, build, loss=lambda model, _: model(x).square().mean())
    run.begin(STEPS)
    for _ in range(steps):
        run.train_step(None)
    own = {t.untyped_storage().data_ptr() for t in (*run.model.parameters(), *run.model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tuple(tensor.shape), storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run.model(x)
    return [shape for shape, _ in kept.values()], sum(size for _, size in kept.values())


def test_only_the_product_with_a_frozen_factor_is_kept():
    shared = {"r": 2, "rounds": 3, "target_modules": ["0"]}
    for steps in (0, 7):  # without a history, and with one of rank 4
        shapes, size = kept_for_backward(RACLoRA(frozen="A", **shared), steps)
        assert shapes == [(2, 64)]
        assert size == 64 * 2 * 4
    shapes, size = kept_for_backward(LoRA(r=2, target_modules=["0"]))
    assert sorted(shapes) == [(2, 64), (64, 48)]
    assert size == 64 * (2 + 48) * 4


# Saving and resuming -----------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "build"), [("A", tiny_bert), ("B", tiny_llama)])
def test_the_saved_adapter_is_the_model_at_every_step(side, build, tmp_path):
    run = loop(RACLoRA(r=3, frozen=side, ranks=[3, 2, 1]), build)
    with run.model.disable_adapter():
        base = logits(run.model)
    assert torch.equal(logits(run.model), base)
    for step, data in enumerate(batches(run.model.get_base_model())):
        run.train_step(data)
        if step % 3 != 1:  # in a link, and right after a knot
            run.model.save_pretrained(tmp_path / str(step))
            vanilla = PeftModel.from_pretrained(build(), tmp_path / str(step))
            torch.testing.assert_close(logits(vanilla), logits(run.model), rtol=0, atol=3e-6)
        with run.model.disable_adapter():
            assert torch.equal(logits(run.model), base)


def dropped_bert():
    return tiny_bert(dropout=0.1)


@every_side
def test_resume_in_mid_link_gives_the_same_bits(side):
    method = RACLoRA(r=2, rounds=3, frozen=side, lora_dropout=0.1)
    torch.manual_seed(11)
    expected = get_peft_model_state_dict(train(loop(method, dropped_bert)).model)
    for cut in (1, 4):
        torch.manual_seed(11)
        state = train(loop(method, dropped_bert), range(cut)).state_dict()
        torch.manual_seed(12)
        resumed = loop(method, dropped_bert)
        resumed.load_state_dict(state)
        train(resumed, range(cut, STEPS))
        assert same_bits(get_peft_model_state_dict(resumed.model), expected)


def test_the_trainer_resumes_in_the_middle_of_the_second_link(tmp_path):
    method = RACLoRA(r=2, rounds=3, lora_dropout=0.1)
    options = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 4}
    straight = build_trainer(method, "bert", tmp_path / "straight", **options)
    straight.train()
    resumed = build_trainer(method, "bert", tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-4"))
    assert same_bits(adapter(resumed.model), adapter(straight.model))


@every_side
@pytest.mark.parametrize("steps", [5, STEPS])
def test_a_seed_stands_for_the_frozen_factors(side, steps, tmp_path):
    run = train(loop(RACLoRA(r=2, rounds=3, frozen=side), tiny_llama), range(steps))
    run.model.save_pretrained(tmp_path / "plain")
    assert save_seeded(run, tmp_path / "seeded") == []
    assert not (tmp_path / "seeded" / PLAIN).exists()
    plain, seeded = ((tmp_path / f).stat().st_size for f in (f"plain/{PLAIN}", f"seeded/{SEEDED}"))
    assert seeded < 0.8 * plain
    expand_seeded(tmp_path / "seeded")
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "seeded").iterdir())
    for name in (PLAIN, "adapter_config.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "seeded" / name).read_bytes()


@pytest.mark.parametrize(
    "fields", [{"mode": "recompress", "rank_cap": 2}, {"layers_per_round": 1, "rounds": 1}]
)
def test_what_no_seed_gives_again_is_stored(fields, tmp_path):
    method = XGBLoRA(**{"rounds": 4, "frozen": "A", "layers_per_round": None, **fields})
    run = train(loop(method, tiny_llama, steps=8), range(8))
    run.finish()
    stored = save_seeded(run, tmp_path)
    assert len(stored) == (21 if "mode" in fields else 14)
    expand_seeded(tmp_path)
    model = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    torch.testing.assert_close(logits(model), logits(run.model), rtol=0, atol=3e-6)


def test_another_machines_draws_are_noticed(tmp_path, monkeypatch):
    run = train(loop(RACLoRA(r=2, rounds=3), tiny_llama), range(2))
    save_seeded(run, tmp_path)
    ours = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: ours(*a, **k) * (1 + 1e-7))
    with pytest.raises(MethodError, match="seed 5 gives other numbers on this machine"):
        expand_seeded(tmp_path)
    monkeypatch.undo()
    expand_seeded(tmp_path)


def test_a_chain_that_trains_both_has_no_seed_to_save(tmp_path):
    with pytest.raises(MethodError, match="xgblora trains both factors"):
        save_seeded(loop(XGBLoRA(), tiny_llama), tmp_path)


# The method --------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_its_page():
    method = RACLoRA()
    chain = method.slots().procedure
    assert get_method("rac_lora") is RACLoRA
    assert (method.r, method.lora_alpha, method.target_modules) == (8, 8.0, "all-linear")
    assert (chain.lengths(600), chain.lengths(45)) == ([60] * 10, [23, 22])
    assert (chain.frozen, chain.frozen_draw, chain.projected) == ("A", "gaussian", False)
    assert (chain.reset_optimizer, chain.reset_head, chain.lr_policy) == (True, False, "global")
    assert (chain.mode, chain.rank_cap, chain.layers_per_round) == ("history", 64, None)


def test_the_exact_step_needs_the_event_of_its_gradients():
    run = loop(RACLoRA(projected=True), tiny_llama)
    assert run.procedure.needs == {"after_step", "after_backward"}


@pytest.mark.parametrize("field", [{"frozen": "C"}, {"frozen_draw": "uniform"}, {"rounds": 0}])
def test_a_wrong_field_is_refused_at_once(field):
    with pytest.raises(MethodError, match=next(iter(field))):
        RACLoRA(**field)


def test_both_factors_are_the_business_of_another_method():
    run = loop(XGBLoRA(), tiny_llama)
    with pytest.raises(MethodError, match="frozen = None"):
        run.procedure.boosters.frozen_factor(next(iter(run.layers)), 0)
