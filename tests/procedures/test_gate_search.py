"""Search over gates, selection by them, and retraining of what was kept."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rankwright.core.loop import Loop, constant_schedule
from rankwright.errors import MethodError
from rankwright.layers.gated import gated_factors
from rankwright.methods import AutoLoRA, DiffoRA, LoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.procedures import GateSearch
from rankwright.procedures.bilevel.gate_search import choose_layers, choose_ranks

STEPS = 12
SEARCH = 6
FIELDS: dict[str, Any] = {"r": 3, "lora_alpha": 6, "target_modules": r"blocks\.\d\.[abc]"}


class Block(nn.Module):
    """Three layers side by side; the input of `c` is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x) + self.b(x.roll(1, -1)) + self.c(0 * x))


class Net(nn.Module):
    """Two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def teacher() -> Net:
    """The network with other weights of `a` and `b`, a change of rank 1 each."""
    draw = torch.Generator().manual_seed(7)
    changed = net()
    with torch.no_grad():
        for block in changed.blocks:
            for layer in (block.a, block.b):
                u, v = torch.randn(2, 6, generator=draw, dtype=torch.float64)
                layer.weight.add_(torch.outer(u, v) / 4)
    return changed


def batch(k: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(k + 1)
    x = torch.randn(16, 6, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        return x, teacher()(x)


def mean_square(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (model(x) - y).square().mean()


def run_of(method: Any, steps: int = STEPS, **options: Any) -> Loop:
    values = {
        "lr": 0.05,
        "schedule": constant_schedule,
        "loss": mean_square,
        "held_out": lambda k: batch(1000 + k),
        **options,
    }
    return Loop(method.apply(net()), method, total_steps=steps, **values)


def trained(method: Any, steps: int = STEPS, **options: Any) -> Loop:
    run = run_of(method, steps, **options)
    for k in range(steps):
        run.train_step(batch(k))
    run.finish()
    return run


def gates(run: Loop) -> dict[str, Tensor]:
    return {n: f.gate.detach().clone() for n, f in gated_factors(run.layers, "default").items()}


def kept(run: Loop) -> set[str]:
    return {name.removeprefix("base_model.model.") for name in adapted_layers(run.model)}


def test_gates_stand_still_in_the_warmup_and_the_lower_steps_leave_their_bits() -> None:
    run = run_of(DiffoRA(**FIELDS, warmup=0.5, upper_lr=0.1))
    for step in range(SEARCH):
        before = gates(run)
        run.train_step(batch(step))
        moved = [not torch.equal(gates(run)[name], gate) for name, gate in before.items()]
        # c has a zero input, hence no gradient; Adam leaves it alone
        assert sum(moved) == (0 if step < 3 else 4), step


def test_the_upper_step_leaves_the_factors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(DiffoRA(**FIELDS, warmup=0.0))
    factors = [p for n, p in run.model.named_parameters() if p.requires_grad and "gate" not in n]
    original: Callable[[], None] = run.step_optimizer
    seen: list[bool] = []

    def checked() -> None:
        before = [p.detach().clone() for p in factors]
        original()
        seen.append(all(map(torch.equal, before, factors)))

    monkeypatch.setattr(run, "step_optimizer", checked)
    for k in range(4):
        run.train_step(batch(k))
    assert seen == [True] * 4


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_keeping_all_is_loras_retraining_bit_for_bit(optimizer: Any) -> None:
    ours = run_of(DiffoRA(**FIELDS, keep=1.0, upper_betas=None), optimizer=optimizer)
    for k in range(STEPS):
        ours.train_step(batch(k))
    plain = run_of(LoRA(**FIELDS), STEPS - SEARCH, optimizer=optimizer)
    for k in range(SEARCH, STEPS):
        plain.train_step(batch(k))
    for name, layer in plain.layers.items():
        gated = ours.layers[name]
        assert torch.equal(layer.lora_A["default"].weight, gated.lora_A["default"].weight), name
        assert torch.equal(layer.lora_B["default"].weight, gated.lora_B["default"].weight), name


def test_the_adapter_names_the_kept_modules_and_no_other() -> None:
    run = trained(DiffoRA(**FIELDS, keep=0.5, warmup=0.2, upper_lr=0.1))
    assert len(kept(run)) == 4  # two of three in each block
    assert not any(name.endswith(".c") for name in kept(run))  # its input is zero
    config = run.model.peft_config["default"]
    assert {str(name) for name in config.target_modules} == kept(run)
    modules = dict(run.model.named_modules())
    assert type(modules["base_model.model.blocks.0.c"]) is nn.Linear
    assert run.metrics["kept_layers"] == 4
    assert run.metrics["gate_margin"] > 0


def test_a_masked_layer_computes_nothing_and_gets_no_gradient() -> None:
    run = run_of(DiffoRA(**FIELDS, keep=0.3, warmup=0.2, upper_lr=0.1))
    for k in range(SEARCH + 1):
        run.train_step(batch(k))
    closed = [n for n, f in gated_factors(run.layers, "default").items() if not f.gates.any()]
    assert len(closed) == 4
    for name in closed:
        layer = run.layers[name]
        assert layer.lora_A["default"].factors_with(layer.lora_B["default"]).A is None
    run.model.zero_grad()
    mean_square(run.model, batch(0)).backward()
    live = {n for n, f in gated_factors(run.layers, "default").items() if f.live.grad is not None}
    assert live == run.layers.keys() - {*closed}


def test_a_smaller_share_keeps_a_subset() -> None:
    draw = torch.Generator().manual_seed(3)
    names = [f"layers.{block}.{kind}" for block in range(5) for kind in "abcdefg"]
    values = torch.rand(len(names), generator=draw).tolist()
    found = dict(zip(names, values, strict=True))
    for scope in ("block", "model"):
        chosen = [choose_layers(found, k / 20, scope)[0] for k in range(1, 21)]  # type: ignore[arg-type]
        assert all(small <= large for small, large in pairwise(chosen))
        assert chosen[-1] == set(names)
        shifted = {name: 3 * value + 1 for name, value in found.items()}
        assert choose_layers(shifted, 0.4, scope)[0] == choose_layers(found, 0.4, scope)[0]  # type: ignore[arg-type]


def test_equal_gates_keep_the_first() -> None:
    equal = {f"layers.0.{kind}": 0.5 for kind in "abcd"}
    assert choose_layers(equal, 0.5, "block") == ({"layers.0.a", "layers.0.b"}, 0.0)


@pytest.mark.parametrize("scope", ["block", "model"])
def test_a_third_of_thirty_three_is_eleven(scope: Any) -> None:
    values = {f"layers.0.{place}": float(place) for place in range(33)}
    assert len(choose_layers(values, 1 / 3, scope)[0]) == 11


def test_ranks_at_the_mean_are_kept() -> None:
    for r in (2, 3, 6, 7):
        assert choose_ranks(torch.softmax(torch.ones(r), 0), 1.0).all()
    gates = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert choose_ranks(gates, 1.0).tolist() == [False, False, True, True]
    assert choose_ranks(gates, 0.5).tolist() == [False, True, True, True]


def test_autolora_ends_with_the_ranks_found() -> None:
    run = run_of(AutoLoRA(**FIELDS, warmup=0.0, upper_lr=0.2))
    for k in range(SEARCH):
        run.train_step(batch(k))
    selected = {n: int(f.gates.sum()) for n, f in gated_factors(run.layers, "default").items()}
    assert set(selected.values()) - {3}  # some ranks are dropped
    assert min(selected.values()) >= 1
    for k in range(SEARCH, STEPS):
        run.train_step(batch(k))
    x, _ = batch(0)
    before = run.model(x).detach()
    run.finish()
    torch.testing.assert_close(run.model(x).detach(), before, rtol=1e-13, atol=1e-15)
    ranks = {n: layer.lora_A["default"].out_features for n, layer in run.layers.items()}
    assert ranks == selected
    assert run.metrics["kept_ranks"] == sum(selected.values())
    assert {layer.scaling["default"] for layer in run.layers.values()} == {2.0}


@pytest.mark.parametrize("method", [AutoLoRA, DiffoRA])
def test_a_warm_start_leaves_the_function_of_what_is_kept(method: Any) -> None:
    fields = {**FIELDS, "retrain_from": "warm", "warmup": 0.2, "upper_lr": 0.1}
    run = run_of(method(**fields, **({"keep": 1.0} if method is DiffoRA else {"threshold": 0.0})))
    x, _ = batch(0)
    seen: list[Tensor] = []
    original = run.procedure._select

    def noted() -> None:
        seen.append(run.model(x).detach())
        original()
        seen.append(run.model(x).detach())

    run.procedure._select = noted
    for k in range(SEARCH):
        run.train_step(batch(k))
    torch.testing.assert_close(*seen, rtol=1e-13, atol=1e-15)


def test_it_plugs_onto_lora_and_brings_the_gates() -> None:
    run = trained(LoRA(**FIELDS).with_parts(procedure=GateSearch(keep=0.5, upper_lr=0.1)))
    assert len(kept(run)) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 0.0}, r"keep = 0.0: expected a share in \(0, 1\]"),
        ({"keep": 1.5}, r"keep = 1.5: expected a share in \(0, 1\]"),
        ({"scope": "layer"}, "scope = 'layer': expected block or model"),
        ({"warmup": 1.0}, r"warmup = 1.0: expected a share in \[0, 1\)"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"DiffoRA.{message}"):
        DiffoRA(**fields)


def test_blocks_of_one_candidate_are_refused() -> None:
    method = DiffoRA(**{**FIELDS, "target_modules": r"blocks\.\d\.a"})
    with pytest.raises(MethodError, match="every block has one adapted layer"):
        run_of(method)
    run_of(DiffoRA(**{**FIELDS, "target_modules": r"blocks\.\d\.a", "scope": "model"}))


def test_a_search_that_is_all_warmup_is_refused() -> None:
    with pytest.raises(MethodError, match="4 optimizer steps give 2 of search, 2 of them warm-up"):
        run_of(DiffoRA(**FIELDS, warmup=0.9), steps=4)
