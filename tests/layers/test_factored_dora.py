"""Properties of the DoRA layer, one layer at a time."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import convert_to_lora
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from rankwright.algebra.row_norms import row_norm
from rankwright.errors import MethodError
from rankwright.kernels import parameter_epoch
from rankwright.layers import effective_weight, frozen_norms, reset_magnitudes, use_factored_dora
from rankwright.methods import DoRA

LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "Linear": (lambda: nn.Linear(7, 5), lambda: torch.randn(3, 4, 7)),
    "no bias": (lambda: nn.Linear(7, 5, bias=False), lambda: torch.randn(3, 7)),
    "Conv1D": (lambda: Conv1D(5, 7), lambda: torch.randn(3, 7)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2), lambda: torch.randn(2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), lambda: torch.randn(2, 4, 5, 5)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), lambda: torch.randn(2, 2, 3, 3, 3)),
    "Embedding": (lambda: nn.Embedding(11, 6), lambda: torch.randint(11, (3, 4))),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def fresh(
    layer: nn.Module,
    dtype: torch.dtype = torch.float64,
    norm_grad: Any = "detached",
    **options: Any,
) -> Any:
    """The layer under a fresh adapter: (model, LoRA layer)."""
    layer = layer.to(dtype)
    if isinstance(layer, Conv1D):
        nn.init.normal_(layer.bias)
    config = LoraConfig(
        target_modules=["0"],
        r=3,
        lora_alpha=6,
        use_dora=True,
        fan_in_fan_out=isinstance(layer, Conv1D),
        **options,
    )
    model = get_peft_model(nn.Sequential(layer), config)
    use_factored_dora(model, norm_grad=norm_grad)
    return model, model.base_model.model[0]


def parameters(module: Any) -> Any:
    """A, B and m."""
    m = module.lora_magnitude_vector["default"].weight
    if module.lora_embedding_A:
        return module.lora_embedding_A["default"], module.lora_embedding_B["default"], m
    return module.lora_A["default"].weight, module.lora_B["default"].weight, m


@torch.no_grad()
def move(module: Any) -> None:
    """Values as after some training."""
    A, B, m = parameters(module)
    A.normal_()
    B.normal_(std=0.2)
    m.mul_(torch.rand_like(m) + 0.5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def example(kind: str, dtype: torch.dtype = torch.float64) -> Tensor:
    x = LAYERS[kind][1]()
    return x.to(dtype) if x.is_floating_point() else x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm_grad", ["detached", "full"])
@every_layer
def test_fresh_adapter_is_the_base_bit_for_bit(
    kind: str, norm_grad: str, dtype: torch.dtype
) -> None:
    layer = LAYERS[kind][0]().to(dtype)
    x = example(kind, dtype)
    model, module = fresh(copy.deepcopy(layer), dtype, norm_grad)
    if kind == "Conv1D":
        layer.bias.data = module.base_layer.bias.data
    y = model(x)
    assert y.dtype == dtype
    assert torch.equal(y, layer(x))
    m = parameters(module)[2]
    assert m.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_bfloat16_magnitude_is_the_float32_norm_of_the_stored_weight() -> None:
    """PEFT computes it in bfloat16 when the adapter stays there: wrong by up to 3.5e-3."""
    _, module = fresh(nn.Linear(64, 64), torch.bfloat16)
    exact = module.base_layer.weight.double().norm(dim=1)
    torch.testing.assert_close(parameters(module)[2].double(), exact, rtol=1e-6, atol=0)


def test_bfloat16_adapter_keeps_float32_norms() -> None:
    layer = nn.Linear(64, 64).to(torch.bfloat16)
    config = LoraConfig(target_modules=["0"], r=3, use_dora=True)
    model = get_peft_model(nn.Sequential(layer), config, autocast_adapter_dtype=False)
    use_factored_dora(model)
    module = model.base_model.model[0]
    assert parameters(module)[0].dtype == torch.bfloat16
    move(module)
    n = module.lora_variant["default"].row_norm(module, "default")
    A, B, _ = (p.detach().double() for p in parameters(module))
    exact = (layer.weight.double() + module.scaling["default"] * B @ A).norm(dim=1)
    torch.testing.assert_close(n.double(), exact, rtol=1e-6, atol=0)


@every_layer
def test_forward_is_the_effective_weight(kind: str) -> None:
    model, module = fresh(LAYERS[kind][0]())
    move(module)
    plain = LAYERS[kind][0]().double()
    weight = effective_weight(module, "default")
    plain.load_state_dict(module.base_layer.state_dict() | {"weight": weight})
    x = example(kind)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-12, atol=1e-12)


@every_layer
def test_rows_have_the_magnitude(kind: str) -> None:
    _, module = fresh(LAYERS[kind][0]())
    move(module)
    m = parameters(module)[2].detach().flatten()
    weight = effective_weight(module, "default")
    rows = weight.T if kind in ("Conv1D", "Embedding") else weight.flatten(1)
    torch.testing.assert_close(rows.norm(dim=1), m.abs())


@every_layer
def test_output_is_linear_in_the_magnitude(kind: str) -> None:
    model, module = fresh(LAYERS[kind][0]())
    move(module)
    m, x = parameters(module)[2], example(kind)
    with torch.no_grad():
        y = model(x)
        m.mul_(-1)
        opposite = model(x)
        m.mul_(-3)
        thrice = model(x)
    bias = (y + opposite) / 2
    torch.testing.assert_close(thrice - bias, 3 * (y - bias))


@pytest.mark.parametrize("norm_grad", ["detached", "full"])
@every_layer
def test_peft_computes_the_same_in_eval_mode(kind: str, norm_grad: str) -> None:
    model, module = fresh(LAYERS[kind][0](), norm_grad=norm_grad)
    move(module)
    model.eval()
    x = example(kind)
    ours = model(x)
    own = module.lora_variants[("use_dora",)]
    module.lora_variant["default"] = own()
    torch.testing.assert_close(ours, model(x), rtol=1e-12, atol=1e-12)


def test_magnitude_of_plain_lora() -> None:
    model, module = fresh(nn.Linear(7, 5))
    move(module)
    reset_magnitudes(model)
    A, B, _ = parameters(module)
    x = example("Linear")
    expected = module.base_layer(x) + 2 * (x @ A.T) @ B.T
    torch.testing.assert_close(model(x), expected, rtol=1e-13, atol=1e-13)


@every_layer
def test_invariant_under_a_change_of_basis(kind: str) -> None:
    model, module = fresh(LAYERS[kind][0]())
    move(module)
    A, B, _ = parameters(module)
    x, R = example(kind), torch.randn(3, 3, dtype=torch.float64)
    with torch.no_grad():
        y = model(x)
        A.copy_((R @ A.flatten(1)).view_as(A))
        B.copy_((B.flatten(1) @ R.inverse()).view_as(B))
        torch.testing.assert_close(model(x), y, rtol=1e-11, atol=1e-11)


def test_invariant_under_a_rescaling_of_rows() -> None:
    model, module = fresh(nn.Linear(7, 5))
    move(module)
    x, c = example("Linear"), torch.rand(5, 1, dtype=torch.float64) + 0.5
    with torch.no_grad():
        y = model(x)
        module.base_layer.weight.mul_(c)
        parameters(module)[1].mul_(c)
        torch.testing.assert_close(model(x), y, rtol=1e-13, atol=1e-13)


def test_closed_case() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[3.0, 4.0]])
    config = LoraConfig(target_modules=["0"], r=1, lora_alpha=1, use_dora=True)
    model = get_peft_model(nn.Sequential(layer), config)
    use_factored_dora(model)
    A, B, m = parameters(model.base_model.model[0])
    with torch.no_grad():
        A.copy_(torch.tensor([[1.0, 0.0]]))
        B.fill_(3.0)
    assert m.item() == 5.0
    assert model(torch.ones(1, 2)).item() == pytest.approx(6.9337525, rel=1e-7)


# Gradients


@pytest.mark.parametrize("norm_grad", ["detached", "full"])
@every_layer
def test_gradcheck(kind: str, norm_grad: str) -> None:
    model, module = fresh(LAYERS[kind][0](), norm_grad=norm_grad)
    move(module)
    x = example(kind)
    theta = parameters(module)

    def forward(*_: Tensor) -> Tensor:
        output: Tensor = model(x)
        return output

    if norm_grad == "full":
        assert torch.autograd.gradcheck(forward, theta)
        return
    with frozen_norms(model):
        assert torch.autograd.gradcheck(forward, theta)
        inside = torch.autograd.grad(model(x).sum(), theta)
    outside = torch.autograd.grad(model(x).sum(), theta)
    assert all(map(torch.equal, inside, outside))


def test_full_gradient_twice() -> None:
    """The exact hypergradient of BiDoRA differentiates the layer twice."""
    model, module = fresh(nn.Linear(4, 3), norm_grad="full")
    move(module)
    x = torch.randn(2, 4, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda *_: model(x), parameters(module))


@pytest.mark.parametrize("norm_grad", ["detached", "full"])
def test_direction_gradient(norm_grad: str) -> None:
    """dL/dA, dL/dB and dL/dm in closed form; the full dL/dV_i has no component along V_i."""
    model, module = fresh(nn.Linear(7, 5), norm_grad=norm_grad, init_lora_weights=False)
    move(module)
    A, B, m = parameters(module)
    x, cot = torch.randn(6, 7, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    y = model(x)
    y.backward(cot)
    V = module.base_layer.weight + 2 * B @ A
    g = (m / V.norm(dim=1)).detach()
    dV = g[:, None] * (cot.T @ x)
    if norm_grad == "full":
        D = V / V.norm(dim=1, keepdim=True)
        dV = dV - (dV * D).sum(1, keepdim=True) * D
    torch.testing.assert_close(A.grad, 2 * B.T @ dV)
    torch.testing.assert_close(B.grad, 2 * dV @ A.T)
    torch.testing.assert_close(m.grad, (cot * (y - module.base_layer.bias)).sum(0) / m)


@pytest.mark.parametrize("norm_grad", ["detached", "full"])
@every_layer
def test_zero_row(kind: str, norm_grad: str) -> None:
    """PEFT returns NaN for the whole model; here the row stays silent and can still be trained."""
    layer: Any = LAYERS[kind][0]()
    with torch.no_grad():
        layer.weight[(slice(None), 1) if kind in ("Conv1D", "Embedding") else 1] = 0
    model, module = fresh(layer, norm_grad=norm_grad)
    x = example(kind)
    y = model(x)
    assert torch.equal(y, module.base_layer(x))
    optimizer = torch.optim.SGD(parameters(module), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in parameters(module))
        optimizer.step()
    assert bool(torch.isfinite(model(x)).all())
    model.merge_adapter(safe_merge=True)


def test_dropout_on_the_low_rank_path_only() -> None:
    model, module = fresh(nn.Linear(7, 5), lora_dropout=0.5)
    x = example("Linear")
    assert torch.equal(model(x), module.base_layer(x))  # B = 0: dropout changes nothing
    move(module)
    assert not torch.equal(model(x), model(x))
    module.lora_dropout["default"] = nn.Dropout(1.0)  # only the base path is left
    n = module.lora_variant["default"].row_norm(module, "default")
    base, bias = module.base_layer(x), module.base_layer.bias
    expected = bias + parameters(module)[2] / n * (base - bias)
    torch.testing.assert_close(model(x), expected, rtol=1e-13, atol=1e-13)
    model.eval()
    expected = x @ effective_weight(module, "default").T + bias
    torch.testing.assert_close(model(x), expected, rtol=1e-13, atol=1e-13)


# Merging


@pytest.mark.parametrize("safe", [True, False])
@every_layer
def test_merged_is_unmerged(kind: str, safe: bool) -> None:
    model, module = fresh(LAYERS[kind][0]())
    move(module)
    x, before = example(kind), module.base_layer.weight.clone()
    y = model(x)
    model.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)
    model.unmerge_adapter()
    assert torch.equal(module.base_layer.weight, before)
    assert torch.equal(model(x), y)


def test_bfloat16_merge_is_one_rounding_and_unmerge_exact() -> None:
    model, module = fresh(nn.Linear(64, 48), torch.bfloat16)
    move(module)
    before, exact = module.base_layer.weight.clone(), effective_weight(module, "default")
    model.merge_adapter(safe_merge=True)
    assert torch.equal(module.base_layer.weight, exact.to(torch.bfloat16))
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    with model.disable_adapter():
        assert torch.equal(model(x), nn.functional.linear(x, before, module.base_layer.bias))
    assert torch.equal(module.base_layer.weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_adapter_is_not_merged(value: float) -> None:
    model, module = fresh(nn.Linear(7, 5))
    before = module.base_layer.weight.clone()
    with torch.no_grad():
        parameters(module)[2][0] = value
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(module.base_layer.weight, before)


def test_two_adapters_merged_in_turn() -> None:
    model, module = fresh(nn.Linear(7, 5))
    model.add_adapter("second", LoraConfig(target_modules=["0"], r=2, use_dora=True))
    use_factored_dora(model, "second", "full")
    move(module)
    with torch.no_grad():
        module.lora_B["second"].weight.normal_()
    model.base_model.set_adapter(["default", "second"])
    x, before = example("Linear"), module.base_layer.weight.clone()
    y = model(x)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)
    model.unmerge_adapter()
    assert torch.equal(module.base_layer.weight, before)


def test_peft_refuses_to_convert_and_lose_the_magnitude() -> None:
    model, _ = fresh(nn.Linear(7, 5))
    with pytest.raises((TypeError, ValueError), match="conver"):
        convert_to_lora(model, rank=2)


def test_a_convolution_that_peft_cannot_express_is_named() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3, dilation=2))
    with pytest.raises(MethodError, match=r"\.1: PEFT's low-rank branch of Conv1d.* ignores"):
        DoRA(r=2, target_modules=["0", "1"]).apply(model)


# What is remembered between calls


def test_base_norms_follow_the_base_weight() -> None:
    model, module = fresh(nn.Linear(7, 5))
    move(module)
    x = example("Linear")

    def agrees() -> bool:
        expected = x.to(module.base_layer.weight.dtype) @ effective_weight(module, "default").T
        return torch.allclose(model(x) - module.base_layer.bias, expected, atol=1e-12)

    assert agrees()
    with torch.no_grad():
        module.base_layer.weight.normal_()  # in place
    assert agrees()
    module.base_layer.weight.data = torch.randn(5, 7, dtype=torch.float64)  # replaced
    assert agrees()
    module.base_layer.weight.data.normal_()  # unseen: PyTorch counts no version here
    module.lora_variant["default"].forget()
    assert agrees()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_stay_float32_when_the_model_is_cast(dtype: torch.dtype) -> None:
    model, module = fresh(nn.Linear(64, 48), torch.float32)
    x = torch.randn(3, 64)
    model(x)
    model.to(dtype)
    n = module.lora_variant["default"].row_norm(module, "default")
    assert n.dtype == torch.float32
    torch.testing.assert_close(n, module.base_layer.weight.float().norm(dim=1))
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x.to(dtype)), model(x.to(dtype)))


def changes(model: Any, module: Any) -> Iterator[str]:
    """Each way in which parameters of an evaluated model change."""
    A, B, m = parameters(module)
    with torch.no_grad():
        B.add_(1)
    yield "in place"
    model.load_state_dict({key: value + 0.1 for key, value in model.state_dict().items()})
    yield "load_state_dict"
    module.lora_A["default"].weight = nn.Parameter(A + 1)
    yield "replaced"
    module.set_scale("default", 3.0)
    yield "scaling"
    with torch.no_grad():
        m.mul_(2)
    yield "magnitude"
    model.train()
    kernels: tuple[dict[str, Any], ...] = ({"fused": True}, {"foreach": True})
    for options in kernels:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **options)
        model(torch.ones(1, 7, dtype=torch.float64)).sum().backward()
        optimizer.step()
        yield str(options)
    model.set_adapter("other")
    model.set_adapter("default")
    yield "set_adapter"


def test_eval_norms_follow_the_factors() -> None:
    model, module = fresh(nn.Linear(7, 5))
    model.add_adapter("other", LoraConfig(target_modules=["0"], r=2, use_dora=True))
    move(module)
    x = example("Linear")
    for change in changes(model, module):
        model.eval()
        with torch.no_grad():
            expected = x @ effective_weight(module, "default").T + module.base_layer.bias
            torch.testing.assert_close(model(x), expected, msg=change)


def norms_agree(model: Any, module: Any) -> bool:
    """Whether an evaluated model computes with the norms of the weights that it has."""
    x = example("Linear")
    with torch.no_grad():
        expected = x @ effective_weight(module, "default").T + module.base_layer.bias
        return torch.allclose(model(x), expected)


def factors_of_one_address(shape: torch.Size) -> Iterator[Tensor]:
    """As an allocator gives a freed tensor's address to the next one of its size."""
    memory = bytearray(8 * shape.numel())
    for value in (1.0, 2.0, 3.0):
        yield torch.frombuffer(memory, dtype=torch.float64).fill_(value).view(shape)


def test_eval_norms_of_a_factor_in_the_place_of_another() -> None:
    model, module = fresh(nn.Linear(7, 5))
    move(module)
    model.eval()
    factor = module.lora_B["default"]
    for B in factors_of_one_address(factor.weight.shape):
        factor.weight = nn.Parameter(B)
        assert norms_agree(model, module)


def test_eval_norms_of_factors_that_were_passed_in() -> None:
    model, module = fresh(nn.Linear(7, 5))
    move(module)
    model.eval()
    x, name = example("Linear"), "base_model.model.0.lora_B.default.weight"
    outputs = []
    for forget in (False, True):
        for B in factors_of_one_address(module.lora_B["default"].weight.shape):
            if forget:
                module.lora_variant["default"].forget()
            with torch.no_grad():
                outputs.append(torch.func.functional_call(model, {name: B}, (x,)))
    assert all(map(torch.equal, outputs[:3], outputs[3:]))


def test_eval_norms_after_compiled_training() -> None:
    """A fused optimizer counts no version, and compiled code asks for none."""
    model, module = fresh(nn.Linear(7, 5))
    move(module)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    optimizer = torch.optim.AdamW(parameters(module), lr=0.1, fused=True)
    for _ in range(2):
        model.eval()
        assert norms_agree(model, module)
        model.train()
        compiled(example("Linear")).sum().backward()
        optimizer.step()
    model.eval()
    assert norms_agree(model, module)


def test_copies_and_pickles_of_an_evaluated_model() -> None:
    model, module = fresh(nn.Linear(7, 5))
    move(module)
    model.eval()
    assert norms_agree(model, module)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert norms_agree(same, same.base_model.model[0])
    assert norms_agree(model, module)


def counted_norms(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fills up with one entry for each row norm that is computed."""
    calls: list[Any] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return row_norm(*args, **kwargs)

    monkeypatch.setattr("rankwright.layers.dora.row_norm", counted)
    return calls


def test_eval_computes_the_norm_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = fresh(nn.Linear(7, 5))
    calls = counted_norms(monkeypatch)
    model.eval()
    with torch.no_grad():
        for _ in range(3):
            model(example("Linear"))
    assert len(calls) == 1


@pytest.mark.parametrize("norm_grad", ["detached", "full"])
def test_training_computes_the_norm_once_while_parameters_stand_still(
    norm_grad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, module = fresh(nn.Linear(7, 5), norm_grad=norm_grad)
    move(module)
    x, calls = example("Linear"), counted_norms(monkeypatch)

    def gradients() -> list[Tensor]:
        grads = torch.autograd.grad(model(x).square().sum(), parameters(module))
        return list(grads)

    alone = gradients()
    gradients()
    assert len(calls) == 2  # nothing is kept outside an epoch
    calls.clear()
    with parameter_epoch.fixed_parameters():
        first, second = gradients(), gradients()
        assert len(calls) == 1
        with torch.no_grad():
            parameters(module)[0].add_(1)  # a promise broken in the open
        gradients()
        assert len(calls) == 2
    assert all(map(torch.equal, alone, first))
    assert all(map(torch.equal, alone, second))
    with parameter_epoch.fixed_parameters():
        gradients()
    assert len(calls) == 3


def test_training_after_inference_mode() -> None:
    model, _ = fresh(nn.Linear(7, 5), norm_grad="full")
    model.eval()
    model.base_model.model[0].lora_variant["default"].forget()
    with torch.inference_mode():
        model(example("Linear"))
    model.train()
    model(example("Linear")).sum().backward()


# Cost


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sizes of all tensors with memory of their own that are made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for t in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in inputs:
                self.sizes[str(func)] = max(self.sizes.get(str(func), 0), t.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm_grad", ["detached", "full"])
def test_no_matrix_of_the_size_of_the_weight(
    norm_grad: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward make nothing of d_out * d_in or d_in^2 numbers (PEFT: both)."""
    monkeypatch.setattr("rankwright.algebra.block_products.BLOCK_NUMBERS", 1000)
    model, module = fresh(nn.Linear(96, 80), dtype, norm_grad)
    move(module)
    x = torch.randn(4, 96, dtype=dtype)
    with Allocations() as made:
        model(x).sum().backward()
    assert "aten.eye.default" not in made.sizes
    assert max(made.sizes.values()) <= 1000, made.sizes

    module.lora_variant["default"] = module.lora_variants[("use_dora",)]()
    with Allocations() as made:
        model(x)
    assert max(made.sizes.values()) >= 96 * 96  # the measure sees PEFT's identity matrix


# Errors


def test_refusals() -> None:
    plain = get_peft_model(nn.Sequential(nn.Linear(3, 3)), LoraConfig(target_modules=["0"], r=2))
    with pytest.raises(ValueError, match="no DoRA adapter 'default'"):
        use_factored_dora(plain)
    model, module = fresh(nn.Linear(7, 5))
    wrong: Any = "half"
    with pytest.raises(ValueError, match="norm_grad='half': expected one of"):
        use_factored_dora(model, norm_grad=wrong)
    with pytest.raises(ValueError, match="no DoRA adapter 'missing'"):
        use_factored_dora(model, "missing")
    with pytest.raises(RuntimeError, match="was not merged"):
        module.lora_variant["default"].unmerge(module, "default", module.base_layer.weight)
    model.merge_adapter()
    with pytest.raises(ValueError, match="are merged"):
        use_factored_dora(model)
