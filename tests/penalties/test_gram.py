"""The Gram penalty against its dense definition `|D D^T - I|_F`."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rankwright.algebra.cosines import BaseGram, base_gram, factored_cosines_sq
from rankwright.errors import MethodError
from rankwright.peft_layers.weight_view import base_rows, low_rank_factors
from rankwright.penalties import Gram
from rankwright.penalties.gram import cosines_sq

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "wide": lambda: nn.Linear(7, 5),
    "tall": lambda: nn.Linear(4, 9),
    "Conv1D": lambda: Conv1D(5, 7),
    "Conv2d": lambda: nn.Conv2d(4, 6, 3),
    "Embedding": lambda: nn.Embedding(11, 6),
}
FORMS = ("norm", "squared")


def run_over(*layers: nn.Module, dtype: torch.dtype = torch.float64, use_dora: bool = True) -> Any:
    """What the penalty uses of a run, over a model of these layers away from its start."""
    torch.manual_seed(0)
    config = LoraConfig(
        target_modules=[str(i) for i in range(len(layers))],
        r=2,
        lora_alpha=3,
        use_dora=use_dora,
        init_lora_weights=False,
        fan_in_fan_out=isinstance(layers[0], Conv1D),
    )
    model = get_peft_model(nn.Sequential(*layers).to(dtype), config)
    names = [str(i) for i in range(len(layers))]
    return SimpleNamespace(
        model=model,
        layers={name: model.base_model.model[int(name)] for name in names},
        adapter_name="default",
        step=0,
        generator=lambda *key: torch.Generator().manual_seed(abs(hash(key)) % 2**31),
    )


def dense(run: Any, form: str) -> Tensor:
    terms = []
    for module in run.layers.values():
        A, B, s = low_rank_factors(module, "default")
        V = base_rows(module) + s * B @ A
        D = V / V.norm(dim=1, keepdim=True)
        R = torch.linalg.norm(D @ D.T - torch.eye(len(D), dtype=D.dtype))
        terms.append(R if form == "norm" else R**2)
    return torch.stack(terms).mean()


def factors(run: Any) -> list[nn.Parameter]:
    return [p for n, p in run.model.named_parameters() if p.requires_grad and "magnitude" not in n]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("use_dora", [True, False], ids=["dora", "lora"])
@pytest.mark.parametrize("kind", LAYERS)
def test_equals_dense_in_value_and_gradient(kind: str, use_dora: bool, form: Any) -> None:
    run = run_over(LAYERS[kind](), use_dora=use_dora)
    ours, exact = Gram(weight=0.3, form=form)(run), 0.3 * dense(run, form)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=0)
    for grad, expected in zip(
        torch.autograd.grad(ours, factors(run)),
        torch.autograd.grad(exact, factors(run)),
        strict=True,
    ):
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)


def test_float32_and_half_precision_base() -> None:
    for dtype, rtol in ((torch.float32, 1e-5), (torch.bfloat16, 1e-5)):
        run = run_over(nn.Linear(64, 48), dtype=dtype)
        found = Gram(weight=1.0)(run)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, dense(run, "norm").float(), rtol=rtol, atol=0)


def test_mean_over_modules() -> None:
    both = run_over(nn.Linear(5, 6), nn.Linear(6, 4))
    torch.testing.assert_close(Gram(weight=1.0)(both), dense(both, "norm"))


@pytest.mark.parametrize("kind", LAYERS)
def test_lower_bound(kind: str) -> None:
    """|D D^T - I|_F^2 >= max(0, d_out (d_out - d_in) / d_in)."""
    run = run_over(LAYERS[kind]())
    d_out, d_in = base_rows(run.layers["0"]).shape
    bound = max(0, d_out * (d_out - d_in) / d_in)
    assert Gram(weight=1.0, form="squared")(run).item() >= bound


@pytest.mark.parametrize("form", FORMS)
def test_orthogonal_rows_cost_nothing_and_have_gradient_zero(form: Any) -> None:
    run = run_over(nn.Linear(6, 4))
    with torch.no_grad():
        run.layers["0"].base_layer.weight.copy_(3 * torch.eye(4, 6))
        run.layers["0"].lora_B["default"].weight.zero_()
    value = Gram(weight=1.0, form=form)(run)
    grads = torch.autograd.grad(value, factors(run))
    assert value.item() == 0
    assert all(bool((grad == 0).all()) for grad in grads)


@pytest.mark.parametrize("form", FORMS)
def test_zero_row_has_no_direction(form: Any) -> None:
    run = run_over(nn.Linear(6, 4))
    with torch.no_grad():
        run.layers["0"].base_layer.weight[1] = 0
        run.layers["0"].lora_B["default"].weight[1] = 0
    value = Gram(weight=1.0, form=form)(run)
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(value, factors(run)))


def test_a_single_row_costs_nothing() -> None:
    value = Gram(weight=1.0)(run_over(nn.Linear(6, 1)))
    assert value is not None
    assert value.item() == 0


def test_weight_0_computes_nothing() -> None:
    nothing: Any = SimpleNamespace()
    assert Gram(weight=0.0)(nothing) is None


def test_no_gradient_to_magnitude_or_weight() -> None:
    run = run_over(nn.Linear(7, 5))
    value: Any = Gram()(run)
    value.backward()
    layer = run.layers["0"]
    assert layer.lora_magnitude_vector["default"].weight.grad is None
    assert layer.base_layer.weight.grad is None


def test_subset_of_rows_is_seeded_and_unbiased() -> None:
    torch.manual_seed(0)
    run, part = run_over(nn.Linear(7, 9)), Gram(weight=1.0, form="squared", rows=4)
    torch.testing.assert_close(part(run), part(run), rtol=0, atol=0)
    values = []
    for run.step in range(400):
        values.append(part(run).item())
    exact = Gram(weight=1.0, form="squared")(run).item()
    assert len(set(values)) > 20
    assert sum(values) / len(values) == pytest.approx(exact, rel=0.05)
    everything = Gram(weight=1.0, rows=9)(run)
    torch.testing.assert_close(everything, Gram(weight=1.0)(run), rtol=0, atol=0)


@pytest.mark.parametrize("base", [torch.float64, torch.bfloat16])
def test_few_rows_from_the_weight_itself_are_the_factored_ones(base: torch.dtype) -> None:
    torch.manual_seed(0)
    W = torch.randn(9, 7).to(base)
    W[4] = 0
    A, B = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 7), (9, 2)))
    B[4] = 0
    A.requires_grad_()
    B.requires_grad_()
    direct = cosines_sq(W, A, B, 1.5)
    expected = factored_cosines_sq(W, A, B, 1.5, base_gram(W.double()))
    torch.testing.assert_close(direct, expected, rtol=1e-12, atol=0)
    for grad, wanted in zip(
        torch.autograd.grad(direct, (A, B)), torch.autograd.grad(expected, (A, B)), strict=True
    ):
        torch.testing.assert_close(grad, wanted, rtol=1e-10, atol=1e-12)


def test_a_draw_of_modules_has_the_mean_of_all() -> None:
    run, part = run_over(nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 8)), Gram(1.0, modules=1)
    found = {}
    for run.step in range(40):
        value: Any = part(run)
        found[value.item()] = torch.autograd.grad(value, factors(run), materialize_grads=True)
    assert len(found) == 3  # one of three, and each of them sooner or later
    exact: Any = Gram(1.0)(run)
    assert sum(found) / 3 == pytest.approx(exact.item(), rel=1e-12)
    for *drawn, expected in zip(
        *found.values(), torch.autograd.grad(exact, factors(run)), strict=True
    ):
        torch.testing.assert_close(sum(drawn) / 3, expected, rtol=1e-12, atol=1e-15)


def test_base_gram_is_computed_once_and_follows_the_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def counted(W: Tensor) -> BaseGram:
        calls.append(W)
        return base_gram(W)

    monkeypatch.setattr("rankwright.penalties.gram.base_gram", counted)
    run = run_over(nn.Linear(7, 5))
    for _ in range(3):
        Gram()(run)
    assert len(calls) == 1
    with torch.no_grad():
        run.layers["0"].base_layer.weight.normal_()
    torch.testing.assert_close(Gram(weight=1.0)(run), dense(run, "norm"))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight = -1.0: expected a number of at least 0"),
        ({"weight": math.nan}, "weight = nan: expected a number of at least 0"),
        ({"form": "cubed"}, "form = 'cubed': expected norm or squared"),
        ({"rows": 1}, "rows = 1: expected at least 2"),
        ({"modules": 0}, "modules = 0: expected at least 1"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        Gram(**options)


def test_a_layer_without_a_matrix_is_named_when_the_run_is_built() -> None:
    run = run_over(nn.Linear(7, 5), nn.Conv1d(4, 4, 3, dilation=2), use_dora=False)
    with pytest.raises(MethodError, match=r"1: PEFT's low-rank branch of Conv1d.* ignores groups"):
        Gram().check_run(run)
