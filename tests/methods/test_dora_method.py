import pytest
import torch

from bilevel_toy import FIELDS, UPPER, batch, cross_entropy, held_out, parameter, toy
from models import batch as stack
from models import classification_rows, rows_for, tiny_bert, tiny_llama
from rankwright.core.loop import Loop
from rankwright.core.method_registry import get_method
from rankwright.errors import MethodError
from rankwright.methods import DoRA


def test_it_is_registered_and_says_what_it_fills():
    assert get_method("dora") is DoRA
    assert DoRA().slots().filled() == ["layer"]
    assert DoRA().slots().export.artefact == "DoRA adapter of rank r"


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_a_fresh_adapter_is_the_base_model(build):
    rows = stack(rows_for(build(), 4))
    base = build().eval()
    expected = base(**rows).logits
    assert torch.equal(expected, DoRA().apply(build()).eval()(**rows).logits)


def test_training_lowers_the_loss_and_moves_the_magnitudes():
    method = DoRA()
    model = method.apply(tiny_bert())
    rows = stack(classification_rows(8))
    run = Loop(model, method, total_steps=20, lr=1e-2)
    losses = [run.train_step(rows) for _ in range(20)]
    run.finish()
    assert losses[-1] < 0.5 * losses[0]
    magnitudes = {n: p for n, p in model.named_parameters() if "magnitude" in n}
    start = dict(method.apply(tiny_bert()).named_parameters())
    assert not any(torch.equal(p, start[n]) for n, p in magnitudes.items())


def test_the_norms_gradient_is_a_choice():
    gradients = []
    for norm_grad in ("detached", "full"):
        model = DoRA(**FIELDS, norm_grad=norm_grad).apply(toy())
        with torch.no_grad():
            parameter(model, "l0.B").normal_(generator=torch.Generator().manual_seed(0))
        loss = cross_entropy(model, batch(0)) + cross_entropy(model, held_out(0))
        loss.backward()
        gradients.append({n: parameter(model, n).grad for n in ("l0.B", *UPPER)})
    detached, full = gradients
    assert all(torch.equal(detached[name], full[name]) for name in UPPER)
    assert not torch.allclose(detached["l0.B"], full["l0.B"], rtol=1e-2)


def test_a_wrong_field_is_named():
    with pytest.raises(MethodError, match=r"DoRA\.norm_grad = 'half': expected detached or full"):
        DoRA(norm_grad="half")
