"""LoRA-Pro's optimizer: what a step does to the weight, what is kept, and at what size."""

from __future__ import annotations

import io
import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from chain_toy import Tanh, mean_square
from models import batch, classification_rows, same_bits, tiny_bert
from rankwright.core.loop import Loop, constant_schedule
from rankwright.errors import MethodError
from rankwright.inits import Pissa
from rankwright.layers import Dora
from rankwright.methods import LoRAPro, RACLoRA, SoRA
from rankwright.optimizers import LoraPro, LoraProAdamW, Pair, moments, named_pairs
from rankwright.optimizers.equivalent import adjusted_gradients
from rankwright.optimizers.moments import Format
from rankwright.procedures.chain.chain import Chain
from rankwright.procedures.perturbation import Perturbation

FORMATS = get_args(Format)
FULL = [{"mode": "full", "moments": form} for form in FORMATS]
ALL = [{"mode": "efficient"}, *FULL]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(A: Tensor, B: Tensor, s: float = 2.0, name: str = "0") -> Pair:
    return Pair(name, nn.Parameter(A.clone()), nn.Parameter(B.clone()), s)


def optimizer_of(*pairs: Pair, **options: Any) -> LoraProAdamW:
    factors = [factor for pair in pairs for factor in pair]
    return LoraProAdamW(factors, {pair.name: pair for pair in pairs}, **options)


def product(of: Pair) -> Tensor:
    return of.scaling * (of.B @ of.A).detach()


def give(of: Pair, G: Tensor) -> None:
    """The gradients of a pair whose weight has the gradient G."""
    of.A.grad, of.B.grad = of.scaling * of.B.detach().mT @ G, of.scaling * G @ of.A.detach().mT


def moved(of: Pair, gradients: list[Tensor], **options: Any) -> Tensor:
    """Change of the weight over some steps."""
    optimizer, before = optimizer_of(of, **options), product(of)
    for G in gradients:
        give(of, G)
        optimizer.step()
    return product(of) - before


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


# What a step does to the weight ------------------------------------------------------------------


def test_full_with_a_square_a_is_adamw_of_the_weight() -> None:
    """r = in and B = 0: all of W can be reached, and the first step is that of full fine-tuning."""
    G, W = draw(10, 4), nn.Parameter(torch.zeros(10, 4).double())
    W.grad = G.clone()
    torch.optim.AdamW([W], lr=0.01, weight_decay=0.0).step()
    for delta, rtol in ((0.0, 1e-12), (1e-8, 1e-7)):
        of = pair(draw(4, 4, seed=1), torch.zeros(10, 4).double())
        close(moved(of, [G], mode="full", lr=0.01, delta=delta), W.detach(), rtol)


def test_full_from_zero_b_moves_the_weight_by_the_projected_update() -> None:
    A, G = draw(4, 12, seed=1), draw(10, 12)
    of = pair(A, torch.zeros(10, 4).double())
    change = moved(of, [G], mode="full", lr=0.01, delta=0.0)
    P_A = torch.linalg.pinv(A) @ A
    E = G @ P_A
    close(change, -0.01 * (E / (E.abs() + 1e-8)) @ P_A)  # AdamW's first update is E / |E|
    assert torch.equal(of.A.detach(), A)


@pytest.mark.parametrize("mode", ["full", "efficient"])
def test_the_first_moment_is_corrected_from_step_one(mode: Any) -> None:
    of = pair(draw(4, 12, seed=1), torch.zeros(10, 4).double())
    moved(of, [draw(10, 12)], mode=mode, lr=1e-3, eps=0.0, delta=0.0)
    largest = float(of.B.detach().abs().max())
    if mode == "efficient":
        assert largest == pytest.approx(1e-3)  # AdamW: every entry moves by lr
    else:
        slow = pair(draw(4, 12, seed=1), torch.zeros(10, 4).double())
        moved(slow, [draw(10, 12)], mode=mode, lr=1e-3, eps=0.0, delta=0.0, as_published=True)
        corrections = (0.1 / 0.19) * math.sqrt(0.001999 / 0.001)
        assert float(slow.B.detach().abs().max()) / largest == pytest.approx(corrections)  # 0.744


def test_full_does_not_see_the_scale_of_the_gradient() -> None:
    factors, gradients = (draw(4, 12, seed=1), draw(10, 4, seed=2)), [draw(10, 12, seed=3)] * 3
    options = {"mode": "full", "lr": 1e-3, "eps": 0.0}
    once = moved(pair(*factors), gradients, **options)
    close(moved(pair(*factors), [1e4 * G for G in gradients], **options), once, 1e-10)


def test_full_does_not_see_how_the_scaling_is_shared_with_b() -> None:
    """The published code takes s = 2 whatever the layer says."""
    A, B, gradients = draw(4, 12, seed=1), draw(10, 4, seed=2), [draw(10, 12, seed=3)]
    options = {"mode": "full", "lr": 1e-3, "delta": 0.0, "x_mode": "symmetric"}
    close(
        moved(pair(A, B / 4, s=8.0), gradients, **options),
        moved(pair(A, B, s=2.0), gradients, **options),
    )


@pytest.mark.parametrize("x_mode", ["sylvester", "symmetric", "zero"])
def test_efficient_is_adamw_on_the_adjusted_gradients(x_mode: Any) -> None:
    of = pair(draw(4, 12, seed=1), draw(10, 4, seed=2))
    control = pair(of.A.detach(), of.B.detach())
    adamw = torch.optim.AdamW(list(control), lr=0.01, weight_decay=0.1)
    optimizer = optimizer_of(of, lr=0.01, weight_decay=0.1, x_mode=x_mode)
    for step in range(3):
        give(of, draw(10, 12, seed=10 + step))
        give(control, draw(10, 12, seed=10 + step))
        control.A.grad, control.B.grad = adjusted_gradients(
            *(t.detach() for t in control), control.A.grad, control.B.grad, 2.0, x_mode=x_mode
        )
        raw = [factor.grad for factor in of]
        optimizer.step()
        adamw.step()
        close(of.A.detach(), control.A.detach())
        close(of.B.detach(), control.B.detach())
        assert all(factor.grad is grad for factor, grad in zip(of, raw, strict=True))


@pytest.mark.parametrize("options", ALL[:2], ids=["efficient", "full"])
def test_weight_decay_shrinks_both_factors(options: dict[str, Any]) -> None:
    plain, decayed = (pair(draw(4, 12, seed=1), draw(10, 4, seed=2)) for _ in range(2))
    before = [factor.detach().clone() for factor in plain]
    moved(plain, [draw(10, 12)], lr=0.01, **options)
    moved(decayed, [draw(10, 12)], lr=0.01, weight_decay=0.5, **options)
    for one, other, start in zip(plain, decayed, before, strict=True):
        close(other.detach(), one.detach() - 0.01 * 0.5 * start)


@pytest.mark.parametrize("options", ALL[:2], ids=["efficient", "full"])
def test_each_pair_moves_as_if_it_were_alone(options: dict[str, Any]) -> None:
    """Two ranks, three shapes, two scalings in one step."""
    shapes = [(4, 12, 10), (4, 12, 10), (2, 12, 10), (4, 8, 10), (2, 8, 6)]
    many, alone = (
        [
            pair(draw(r, i, seed=k), draw(o, r, seed=10 + k), 1.0 + k % 2, str(k))
            for k, (r, i, o) in enumerate(shapes)
        ]
        for _ in range(2)
    )
    together = optimizer_of(*many, lr=0.01, **options)
    ones = [optimizer_of(of, lr=0.01, **options) for of in alone]
    for step in range(3):
        for k, (left, right) in enumerate(zip(many, alone, strict=True)):
            G = draw(len(left.B), left.A.shape[1], seed=100 * step + k)
            give(left, G)
            give(right, G)
        together.step()
        for one in ones:
            one.step()
    for left, right in zip(many, alone, strict=True):
        close(left.A.detach(), right.A.detach())
        close(left.B.detach(), right.B.detach())


@pytest.mark.parametrize("options", ALL[:2], ids=["efficient", "full"])
def test_the_limit_is_on_the_equivalent_gradients_of_all_pairs(options: dict[str, Any]) -> None:
    pairs = [pair(draw(4, 12, seed=k), draw(10, 4, seed=9 + k), 2.0, str(k)) for k in range(2)]
    gradients = [draw(10, 12, seed=20), 3 * draw(10, 12, seed=21)]
    projected = [
        2.0 * (of.B @ gA + gB @ of.A).detach()
        for of, G in zip(pairs, gradients, strict=True)
        for gA, gB in [adjusted_gradients(*of, 2 * of.B.mT @ G, 2 * G @ of.A.mT, 2.0)]
    ]
    norm = float(torch.stack(projected).norm())
    for limit, factor in ((norm / 4, 0.25), (norm * 4, 1.0)):
        optimizer = optimizer_of(*pairs, lr=0.0, max_norm=limit, **options)
        for of, G in zip(pairs, gradients, strict=True):
            give(of, G)
        optimizer.step()
        for of, E in zip(pairs, projected, strict=True):
            if options["mode"] == "full":
                close(optimizer.state[of.A]["weight_exp_avg"], 0.1 * factor * E, 1e-6)
            else:
                gA, gB = (10 * optimizer.state[factor_]["exp_avg"] for factor_ in of)
                close(2.0 * (of.B @ gA + gB @ of.A).detach(), factor * E, 1e-6)


def largest_step_of_a(B: Tensor, **options: Any) -> float:
    """The largest relative change of A in one of the first five steps, r = 8 of 64 x 64."""
    of, largest = pair((2 * torch.rand(8, 64).double() - 1) / 8, B), 0.0
    optimizer = optimizer_of(of, **options)
    for step in range(5):
        give(of, draw(64, 64, seed=step))
        before = of.A.detach().clone()
        optimizer.step()
        largest = max(largest, float((of.A.detach() - before).norm() / before.norm()))
    return largest


def test_the_second_step_from_zero_b_is_a_jump_of_a() -> None:
    """B of the size of the rate makes B^T B, which is inverted, tiny: the documented trap."""
    torch.manual_seed(0)
    zero, some = torch.zeros(64, 8).double(), 0.01 * draw(64, 8)
    assert largest_step_of_a(zero, mode="full", lr=2e-5) > 0.2
    assert largest_step_of_a(zero, mode="full", lr=2e-7) < 0.01  # a warm-up: the ridge limits it
    assert largest_step_of_a(some, mode="full", lr=2e-5) < 0.01
    assert largest_step_of_a(zero, mode="efficient", lr=2e-4) < 0.01


@pytest.mark.parametrize(
    "options",
    [{"delta": 0.0}, {"delta": 1e-8, "relative_delta": True}, {"delta": 1e-8}],
    ids=["none", "relative", "absolute"],
)
def test_a_b_of_lower_rank_in_float32_does_not_diverge(options: dict[str, Any]) -> None:
    """B^T B of rank 2 of 8 has eigenvalues of float32 rounding, above 1e-8 and the like."""
    B = draw(64, 2, seed=2) @ draw(2, 8, seed=3)
    of = pair((draw(8, 64, seed=1) / 8).float(), B.float(), s=1.0)
    goal = product(of) + 0.3 * draw(64, 64, seed=4).float()
    optimizer, losses, lengths = optimizer_of(of, mode="full", lr=2e-5, **options), [], []
    for _ in range(30):
        give(of, 2 * (product(of) - goal))
        before = of.A.detach().clone()
        optimizer.step()
        lengths.append(float((of.A.detach() - before).norm() / before.norm()))
        losses.append(float((product(of) - goal).square().sum()))
    assert losses == sorted(losses, reverse=True)
    assert max(lengths) < 1e-3


# Moments in the space of W -----------------------------------------------------------------------


class Sizes(TorchDispatchMode):
    """Largest number of entries of any tensor that an operation made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = func.is_view or str(func).startswith(("aten::copy_", "aten.copy_"))
        if isinstance(result, Tensor) and not is_view:
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("options", FULL, ids=FORMATS)
def test_nothing_of_the_size_of_the_weight_is_made_in_a_step(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(moments.ROWS_NUMBERS, "cpu", 8 * 512)
    of = pair(draw(2, 512, seed=1).float(), draw(256, 2, seed=2).float())
    optimizer = optimizer_of(of, **options)
    give(of, draw(256, 512).float())
    optimizer.step()  # makes the moments
    with Sizes() as sizes:
        optimizer.step()
    assert 8 * 512 <= sizes.largest <= 16 * 512


@pytest.mark.parametrize("numbers", [1, 40, 1 << 20])
def test_the_size_of_a_block_of_rows_changes_nothing(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, gradients = (draw(4, 12, seed=1), draw(10, 4, seed=2)), [draw(10, 12, seed=3)] * 2
    expected = moved(pair(*factors), gradients, mode="full", lr=0.01)
    monkeypatch.setitem(moments.ROWS_NUMBERS, "cpu", numbers)
    close(moved(pair(*factors), gradients, mode="full", lr=0.01), expected)


def fitted(**options: Any) -> list[float]:
    """Losses of a small network whose weights move by a matrix of rank 4."""
    torch.manual_seed(0)
    weights = [torch.randn(32, 32) / 32**0.5 for _ in range(2)]
    x = torch.randn(256, 32)
    with torch.no_grad():
        goal = [W + 0.05 * torch.randn(32, 4) @ torch.randn(4, 32) for W in weights]
        y = Tanh(goal)(x)
    method = LoRAPro(r=4, lora_alpha=8.0, target_modules=r".*\.?\d+", **options)
    lr = 4e-3 if options.get("mode") == "full" else 1e-2
    run = Loop(
        *(method.apply(Tanh(weights)), method),
        total_steps=100,
        lr=lr,
        schedule=constant_schedule,
        loss=mean_square,
    )
    return [run.train_step((x, y)) for _ in range(100)]


def test_small_formats_learn_as_float32_does() -> None:
    exact = fitted(mode="full")
    assert exact[-1] < exact[0] / 10
    for form in ("bfloat16", "8bit"):
        assert fitted(mode="full", moments=form)[-1] < 1.3 * exact[-1]
    assert fitted()[-1] < exact[0] / 4


# State -------------------------------------------------------------------------------------------


def trained(method: LoRAPro, cut: int | None = None, steps: int = 6) -> dict[str, Tensor]:
    """The model after a run that was stopped after `cut` steps and went on from a file."""
    rows = classification_rows(24)
    batches = [batch(rows[i : i + 4]) for i in range(0, 24, 4)]
    run = Loop(method.apply(tiny_bert()), method, total_steps=steps, lr=1e-3, weight_decay=0.1)
    for number, inputs in enumerate(batches[:steps]):
        if number == cut:
            file = io.BytesIO()
            torch.save(run.state_dict(), file)
            torch.manual_seed(99)
            run = Loop(
                *(method.apply(tiny_bert(), seed=7), method),
                total_steps=steps,
                lr=1e-3,
                weight_decay=0.1,
            )
            file.seek(0)
            run.load_state_dict(torch.load(file, weights_only=True))
        run.train_step(inputs)
    return run.model.state_dict()


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("options", FULL, ids=FORMATS)
def test_resumed_from_a_file_is_never_stopped(options: dict[str, Any], host: bool) -> None:
    method = LoRAPro(r=2, moments_on_host=host, **options)
    expected = trained(method)
    for cut in (1, 3):
        assert same_bits(trained(method, cut), expected)


@pytest.mark.parametrize("options", FULL, ids=FORMATS)
def test_what_is_kept_in_full(options: dict[str, Any]) -> None:
    of = pair(draw(2, 300, seed=1).float(), draw(8, 2, seed=2).float())
    optimizer = optimizer_of(of, **options)
    give(of, draw(8, 300).float())
    optimizer.step()
    state = optimizer.state[of.A]
    kinds = {"float32": [torch.float32] * 2, "bfloat16": [torch.bfloat16] * 2}
    wanted = kinds.get(options["moments"], [torch.int8, torch.uint8])
    names = ("weight_exp_avg", "weight_exp_avg_sq")
    assert [state[name].dtype for name in names] == wanted
    assert all(state[name].shape == (8, 300) for name in names)
    scales = [state[name].shape for name in state if name.endswith("_scales")]
    assert scales == ([(8, 2)] * 2 if options["moments"] == "8bit" else [])
    assert state["step"] == 1
    assert not optimizer.state[of.B]


@pytest.mark.parametrize("options", FULL, ids=FORMATS)
def test_float64_factors_take_every_format(options: dict[str, Any]) -> None:
    gradients = [draw(10, 12, seed=3 + step) for step in range(3)]
    factors = draw(4, 12, seed=1), draw(10, 4, seed=2)
    change = moved(pair(*factors), gradients, lr=1e-3, **options)
    exact = moved(pair(*factors), gradients, lr=1e-3, mode="full")
    assert change.dtype == torch.float64
    assert float((change - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("options", ALL[:2], ids=["efficient", "full"])
def test_a_chain_forgets_and_goes_on(options: dict[str, Any]) -> None:
    """Boosters of rank 2 and 1 on the same live factors."""
    torch.manual_seed(0)
    method = LoRAPro(r=2, target_modules=r".*\.?\d+", **options)
    method = method.with_parts(procedure=Chain(ranks=[2, 1], rounds=None))
    model = method.apply(Tanh([torch.randn(8, 12), torch.randn(6, 8)]))
    run = Loop(model, method, total_steps=6, lr=1e-2, loss=mean_square)
    x, y = torch.randn(16, 12), torch.randn(16, 6)
    losses = [run.train_step((x, y)) for _ in range(5)]
    assert {int(state["step"]) for state in run.optimizer.state.values() if state} == {2}
    losses.append(run.train_step((x, y)))
    run.finish()
    assert losses[-1] < losses[0]
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("options", ALL[:2], ids=["efficient", "full"])
@pytest.mark.parametrize(
    "parts",
    [
        {"init": Pissa()},
        {"layer": Dora()},
        {"procedure": Perturbation(rho=0.1)},
        {"procedure": [Perturbation(rho=0.1), Chain(rounds=2)]},
    ],
    ids=["pissa", "dora", "noise", "noise and chain"],
)
def test_parts_beside_it(parts: dict[str, Any], options: dict[str, Any]) -> None:
    """What changes the layer, the start or the steps leaves both factors with one G."""
    method = LoRAPro(r=2, **options).with_parts(**parts)
    rows = batch(classification_rows(16))
    run = Loop(method.apply(tiny_bert()), method, total_steps=6, lr=5e-3)
    losses = [run.train_step(rows) for _ in range(6)]
    run.finish()
    assert losses[-1] < losses[0]


def test_convolutions_and_embeddings() -> None:
    from peft import LoraConfig, get_peft_model

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.conv = nn.Embedding(11, 8), nn.Conv1d(8, 6, 3, padding=1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.conv(self.embed(ids).mT)

    torch.manual_seed(0)
    ids, y = torch.randint(0, 11, (4, 9)), torch.randn(4, 6, 9)
    config = LoraConfig(r=2, target_modules=["embed", "conv"], init_lora_weights=False)
    for options in ALL:
        model = get_peft_model(Net(), config)
        optimizer = LoraProAdamW.for_model(model, lr=3e-3, **options)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = F.mse_loss(model(ids), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.8 * losses[0], options
        if options["mode"] == "full":
            shapes = [
                optimizer.state[p.A]["weight_exp_avg"].shape for p in optimizer.pairs.values()
            ]
            assert sorted(shapes) == [(6, 24), (8, 11)]


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (RACLoRA(r=2), "only B is trained"),
        (SoRA(r=2), "its update is not s B A"),
    ],
)
def test_methods_without_two_trained_factors_and_one_gradient(method: Any, message: str) -> None:
    method = method.with_parts(optimizer=LoraPro())
    with pytest.raises(MethodError, match=message):
        Loop(method.apply(tiny_bert()), method, total_steps=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "half"}, "mode = 'half': expected (one of efficient, full|efficient or full)$"),
        ({"x_mode": "symmetry"}, "x_mode = 'symmetry'"),
        ({"mode": "full", "moments": "fp8"}, "moments = 'fp8'"),
        ({"delta": -1.0}, "delta = -1.0"),
        ({"eps": -1.0}, "eps = -1.0"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"max_norm": 0.0}, "max_norm = 0.0"),
        ({"moments": "8bit"}, "mode = 'efficient': expected \"full\""),
        ({"moments_on_host": True}, "mode = 'efficient'"),
        ({"as_published": True}, "mode = 'efficient'"),
    ],
)
def test_an_option_out_of_range(options: dict[str, Any], message: str) -> None:
    for build in (LoraPro, LoRAPro):
        with pytest.raises(MethodError, match=message):
            build(**options)


def test_the_method_hands_its_fields_to_the_part() -> None:
    method = LoRAPro(mode="full", moments="8bit", betas=(0.8, 0.95), max_norm=2.0)
    part = method.slots().optimizer
    expected = LoraPro(mode="full", moments="8bit", betas=(0.8, 0.95), max_norm=2.0)
    assert part == expected
    run = Loop(method.apply(tiny_bert()), method, total_steps=1)
    assert run.optimizer.options == expected
    assert set(run.optimizer.pairs) == set(named_pairs(run.model))
    assert run.optimizer.param_groups[0]["betas"] == (0.8, 0.95)
