"""A module in the place of a factor: what a state dict says of it, and what it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guest_layers import Gate, Gated, Guest, Softmax
from models import tiny_llama, trained
from rankwright.layers.factor import Factor
from rankwright.layers.gated import GatedFactor
from rankwright.peft_layers.layers import adapted_layers


def softmax() -> Softmax:
    torch.manual_seed(0)
    return Softmax(nn.Linear(3, 2, bias=False), nn.Parameter(torch.tensor([0.0, 1.0])))


def test_a_weight_that_differs_by_rounding_leaves_it_alone() -> None:
    """On another device the same parameters make a product that differs in the last bits."""
    factor = softmax()
    before = [p.detach().clone() for p in factor.parameters()]
    factor.load_state_dict({"weight": torch.nextafter(factor.weight.detach(), torch.tensor(9.0))})
    assert all(map(torch.equal, before, factor.parameters()))


def test_a_weight_that_it_cannot_take_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"weight: Softmax computes its weight from other param"):
        softmax().load_state_dict({"weight": torch.ones(2, 3)})


def test_modules_inside_are_not_in_the_file_and_not_missing() -> None:
    factor = Gated(nn.Linear(3, 2, bias=False), Gate(2))
    gate = {name: tensor.clone() for name, tensor in factor.gate.state_dict().items()}
    saved = factor.state_dict()
    assert list(saved) == ["weight"]
    factor.load_state_dict(saved)  # strict
    assert all(torch.equal(gate[name], tensor) for name, tensor in factor.gate.state_dict().items())


def test_gates_take_any_weight() -> None:
    factor = GatedFactor(nn.Linear(3, 2, bias=False), torch.tensor([0.0, 2.0]))
    for weight in (torch.randn(2, 3), torch.zeros(2, 3), torch.full((2, 3), torch.nan)):
        factor.load_state_dict({"weight": weight})
        assert torch.equal(factor.weight.nan_to_num(7), weight.nan_to_num(7))
        assert torch.equal(factor.gate, torch.ones(2))


def test_a_closed_rank_is_not_a_small_one() -> None:
    """Zero is compared exactly: a gate that was closed is not taken for one that is open."""
    factor = GatedFactor(nn.Linear(3, 2, bias=False), torch.tensor([0.0, 1.0]))
    small = factor.weight.detach().clone()
    small[0] = 1e-30
    factor.load_state_dict({"weight": small})
    assert torch.equal(factor.weight, small)


def test_a_weight_of_another_shape_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"weight has shape \(1, 3\), expected \(2, 3\): load"):
        softmax().load_state_dict({"weight": torch.ones(1, 3)})
    with pytest.raises(RuntimeError, match="the adapter was pruned; load it with PeftModel"):
        GatedFactor(nn.Linear(3, 2), torch.ones(2)).load_state_dict({"weight": torch.ones(1, 3)})


class Doubled(Softmax):
    """A forward of its own, which its weight does not say."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class DoubledB(Factor):
    """B with a forward of its own."""

    @property
    def weight(self) -> Tensor:
        return self.live

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_a_forward_of_its_own_is_called(side: str) -> None:
    model = trained(tiny_llama, Guest(r=2))
    x = torch.randint(0, 60, (2, 5))
    expected = model(x).logits
    for layer in adapted_layers(model).values():
        if side == "lora_A":
            layer.lora_A["default"].__class__ = Doubled
        else:
            B = layer.lora_B["default"]
            layer.lora_B["default"] = DoubledB(B, 1)
        layer.scaling["default"] /= 2
    torch.testing.assert_close(model(x).logits, expected, rtol=0, atol=1e-12)


def test_a_factor_without_a_weight_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Factor(nn.Linear(3, 2))  # type: ignore[abstract]
