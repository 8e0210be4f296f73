"""The fused adapted linear layer against the plain one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rankwright.kernels.lowrank import lowrank_linear, lowrank_linears
from rankwright.kernels.operands import Operands, Rule, plain_linear

TRAINED, FROZEN = ("A", "B"), ("A0", "B0")
PARTS = {
    "lora": {*TRAINED},
    "history": {*TRAINED, *FROZEN},
    "history alone": {*FROZEN},
    "nothing": set(),
    "dora": {*TRAINED, "m", "n"},
    "dora with history": {*TRAINED, *FROZEN, "m", "n"},
}


def operands(
    parts: set[str], *, bias: bool = True, transposed: bool = False, dtype: Any = torch.float64
) -> Operands:
    """Random tensors; x, the trained pair, m and n require gradients."""
    draw = torch.Generator().manual_seed(0)

    def tensor(*shape: int, grad: bool = False) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=dtype).requires_grad_(grad)

    made: dict[str, Tensor] = {
        "x": tensor(2, 5, 7, grad=True),
        "W": tensor(7, 6) if transposed else tensor(6, 7),
        "A": tensor(3, 7, grad=True),
        "B": tensor(6, 3, grad=True),
        "A0": tensor(3, 7),
        "B0": tensor(6, 3),
        "m": tensor(6, grad=True),
        "n": tensor(6).abs().requires_grad_(),
    }
    if bias:
        made["bias"] = tensor(6)
    wanted = {"x", "W", "bias", *parts}
    return Operands(**{name: value for name, value in made.items() if name in wanted})


def gradients(function: Any, o: Operands, rule: Rule) -> dict[str, Tensor]:
    """Output and gradients by name, under a fixed cotangent."""
    y = function(o, rule)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    names = [name for name, t in o._asdict().items() if t is not None and t.requires_grad]
    found = torch.autograd.grad(y, [getattr(o, name) for name in names], cotangent)
    return {"y": y.detach(), **dict(zip(names, found, strict=True))}


CASES = [
    (parts, bias, transposed, mirrored, dropout)
    for parts, bias, transposed, mirrored, dropout in itertools.product(
        PARTS, (True, False), (True, False), (True, False), (0.0, 0.3, 1.0)
    )
    if not (mirrored and "history" not in parts)
]


@pytest.mark.parametrize(("parts", "bias", "transposed", "mirrored", "dropout"), CASES)
def test_it_is_the_plain_layer(
    parts: str, bias: bool, transposed: bool, mirrored: bool, dropout: float
) -> None:
    rule = Rule(s=0.7, transposed=transposed, mirrored=mirrored, dropout=dropout, seed=5)
    o = operands(PARTS[parts], bias=bias, transposed=transposed)
    expected, found = (gradients(f, o, rule) for f in (plain_linear, lowrank_linear))
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("parts", PARTS)
def test_gradcheck(parts: str, mirrored: bool, dropout: float) -> None:
    rule = Rule(s=0.7, mirrored=mirrored, dropout=dropout, seed=5)
    o = operands(PARTS[parts])

    def call(*tensors: Tensor) -> Tensor:
        return lowrank_linear(Operands(*tensors), rule)

    assert torch.autograd.gradcheck(call, tuple(o))
    assert torch.autograd.gradgradcheck(call, tuple(o))


@pytest.mark.parametrize("frozen", ["A", "B", "x", "n"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    o = operands(PARTS["dora with history"])
    o = o._replace(**{frozen: getattr(o, frozen).detach()})
    rule = Rule(s=0.7)
    expected, found = (gradients(f, o, rule) for f in (plain_linear, lowrank_linear))
    assert frozen not in found
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)


def test_what_was_frozen_in_the_forward_stays_so_in_the_backward() -> None:
    """A finite difference freezes factors, and its graph may be taken back through later."""
    o = operands(PARTS["lora"])
    A, B = o.A, o.B
    assert A is not None
    assert B is not None
    y = lowrank_linear(o._replace(A=A.requires_grad_(False)), Rule(s=1.0))
    A.requires_grad_()
    y.sum().backward()
    assert A.grad is None
    torch.testing.assert_close(B.grad, (o.x @ A.T).sum((0, 1)).detach().expand(6, 3))


def test_a_A0_cannot_be_differentiated_twice() -> None:  # noqa: N802
    o = operands(PARTS["lora"])
    o = o._replace(A=o.A.detach())  # type: ignore[union-attr]
    y = lowrank_linear(o, Rule(s=1.0))
    with pytest.raises(
        RuntimeError, match=r"inside rankwright\.kernels\.fused_linear\.plain_layers"
    ):
        torch.autograd.grad(y.sum(), [o.B], create_graph=True)  # type: ignore[list-item]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16], ids=str)
def test_bfloat16(parts: str, adapter: torch.dtype) -> None:
    """Within one rounding of the result; float32 factors are multiplied in float32."""
    exact = operands(PARTS[parts])
    half = {
        name: t.detach().to(adapter if name not in ("x", "W", "bias") else torch.bfloat16)
        for name, t in exact._asdict().items()
        if t is not None
    }
    o = Operands(**{n: t.requires_grad_(n not in ("W", "bias", *FROZEN)) for n, t in half.items()})
    wide = Operands(
        **{n: t.detach().double().requires_grad_(t.requires_grad) for n, t in half.items()}
    )
    rule = Rule(s=0.7)
    found, expected = gradients(lowrank_linear, o, rule), gradients(plain_linear, wide, rule)
    assert found["y"].dtype == torch.bfloat16
    for name in expected:
        scale = float(expected[name].abs().max())
        error = float((found[name].double() - expected[name]).abs().max())
        assert error <= 0.03 * scale, name
        if name != "y":
            assert found[name].dtype == getattr(o, name).dtype


@pytest.mark.parametrize("parts", PARTS)
def test_autocast(parts: str) -> None:
    o = operands(PARTS[parts], dtype=torch.float32)
    exact = gradients(plain_linear, o, Rule(s=0.7))
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(lowrank_linear, o, Rule(s=0.7, dtype=torch.bfloat16))
    assert found["y"].dtype == torch.bfloat16
    for name in exact:
        scale = float(exact[name].abs().max())
        assert float((found[name] - exact[name]).abs().max()) <= 0.05 * scale, name


def test_a_fresh_pair_changes_no_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        o = operands({*TRAINED, *FROZEN}, dtype=dtype)
        base = torch.nn.functional.linear(o.x, o.W, o.bias)
        zero = torch.zeros_like(o.B)  # type: ignore[arg-type]
        assert torch.equal(lowrank_linear(o._replace(B=zero, A0=None), Rule(s=2.0)), base)
        mirror = o._replace(A0=o.A, B0=-o.B)  # type: ignore[operator]
        assert torch.equal(lowrank_linear(mirror, Rule(s=2.0, mirrored=True)), base)


def test_autocast_does_not_round_a_small_step_from_a_mirrored_start_away() -> None:
    o = operands({*TRAINED, *FROZEN}, bias=False, dtype=torch.float32)
    A0, B0 = o.A.detach(), o.B.detach()  # type: ignore[union-attr]
    moved = o._replace(W=torch.zeros_like(o.W), A=A0 * 1.0005, B=B0 * 1.0002, A0=A0, B0=-B0)
    change = lowrank_linear(moved, Rule(s=0.7, mirrored=True)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = lowrank_linear(moved, Rule(s=0.7, mirrored=True, dtype=torch.bfloat16))
    assert float((found.detach() - change).norm()) <= 0.01 * float(change.norm())


# Several layers -----------------------------------------------------------------------------------


def layers_of_one_input(
    *parts: str, dtype: Any = torch.float64, **rule: Any
) -> list[tuple[Operands, Rule]]:
    """Layers of as many outputs as each other and different tensors."""
    made = [operands(PARTS[name], dtype=dtype) for name in parts]
    x = made[0].x
    found = []
    for i, o in enumerate(made):
        moved = {
            name: (t.detach() * (1 + i)).requires_grad_(t.requires_grad)
            for name, t in o._asdict().items()
            if t is not None and name != "x"
        }
        found.append((Operands(x, **moved), Rule(s=0.5 + i, seed=3 + i, **rule)))
    return found


def joint_gradients(outputs: Any, layers: Any, used: Any) -> list[Tensor | None]:
    tensors = [t for o, _ in layers for t in o[1:] if t is not None and t.requires_grad]
    draw = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(y.shape, generator=draw, dtype=torch.float64).to(y) for y in outputs]
    loss = sum((outputs[i] * cotangents[i]).sum() for i in used)
    return list(torch.autograd.grad(loss, [layers[0][0].x, *tensors], allow_unused=True))


GROUPS = [
    ("lora", "lora", "lora"),
    ("dora", "dora with history", "dora"),
    ("history", "nothing", "lora"),
    ("history alone", "history"),
]


@pytest.mark.parametrize("used", [(0, 1), (1,)])
@pytest.mark.parametrize("rule", [{}, {"mirrored": True}, {"dropout": 0.3}], ids=str)
@pytest.mark.parametrize("parts", GROUPS, ids=str)
def test_layers_of_one_input_are_each_what_they_are_alone(
    parts: tuple[str, ...], rule: dict[str, Any], used: tuple[int, ...]
) -> None:
    layers = layers_of_one_input(*parts, **rule)
    alone = [plain_linear(o, rule) for o, rule in layers]
    together = lowrank_linears(layers)
    torch.testing.assert_close(list(together), alone, rtol=1e-12, atol=1e-12)
    expected = joint_gradients(alone, layers, used)
    for found, right in zip(joint_gradients(together, layers, used), expected, strict=True):
        if right is None:  # of a layer that took no part in the loss
            assert found is None
        else:
            torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


def test_outputs_may_be_written_to() -> None:
    layers = layers_of_one_input("lora", "lora")
    expected = joint_gradients([2 * plain_linear(o, rule) for o, rule in layers], layers, (0, 1))
    doubled = [y.mul_(2) for y in lowrank_linears(layers)]
    for found, right in zip(joint_gradients(doubled, layers, (0, 1)), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


def test_layers_of_one_input_can_be_differentiated_twice() -> None:
    layers = layers_of_one_input("lora", "dora with history")
    flat = [t for o, _ in layers for t in o[1:]]

    def call(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        made = [Operands(x, *tensors[i * 8 : i * 8 + 8]) for i in range(2)]
        return lowrank_linears([(o, rule) for o, (_, rule) in zip(made, layers, strict=True)])

    assert torch.autograd.gradcheck(call, (layers[0][0].x, *flat))
    assert torch.autograd.gradgradcheck(call, (layers[0][0].x, *flat))
