"""What is PiSSA's alone; what it shares with OLoRA is in `tests/inits` and beside OLoRA's."""

import pytest
import torch

from models import tiny_llama
from rankwright.core.method_registry import get_method
from rankwright.errors import MethodError
from rankwright.inits import Pissa
from rankwright.methods import PiSSA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.weight_view import base_rows


@pytest.mark.parametrize("niter", [None, 8])
def test_the_live_pair_is_the_principal_part(niter):
    model = PiSSA(r=4, lora_alpha=2.0, niter=niter).apply(tiny_llama())
    for layer in adapted_layers(model).values():
        A, B = (getattr(layer, name)["default"].live.detach() for name in ("lora_A", "lora_B"))
        values = torch.linalg.svdvals(base_rows(layer))
        rest = torch.linalg.matrix_norm(base_rows(layer) - 0.5 * B @ A)
        best = values[4:].norm()
        assert float(best) * (1 - 1e-5) <= float(rest) < float(best) * 1.01
        for gram in (A @ A.T, B.T @ B):
            off_diagonal = gram - gram.diagonal().diag()
            assert float(off_diagonal.abs().max()) < 1e-6
            torch.testing.assert_close(gram.diagonal(), values[:4] / 0.5, rtol=0.02, atol=0)


def test_the_defaults_are_those_of_the_page():
    method = PiSSA()
    assert get_method("pissa") is PiSSA
    assert (method.r, method.lora_alpha, method.target_modules) == (8, 8.0, "all-linear")
    assert method.slots().init == Pissa(None, 0)
    assert method.slots().filled() == ["init"]


def test_a_wrong_field_is_refused_when_it_is_given():
    with pytest.raises(MethodError, match=r"niter = -1"):
        PiSSA(niter=-1)
