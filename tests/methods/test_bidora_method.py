import pytest
import torch
from peft import PeftModel

from models import batch, classification_rows, rows_for, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop
from rankwright.core.method_registry import get_method
from rankwright.errors import MethodError
from rankwright.methods import BiDoRA

ROWS = classification_rows(24)


def rows(k):
    return batch([ROWS[(4 * k + i) % 16] for i in range(4)])


def held_out(k):
    return batch([ROWS[16 + (4 * k + i) % 8] for i in range(4)])


def trained(steps=12, **options):
    method = BiDoRA(**options)
    model = method.apply(tiny_bert())
    run = Loop(model, method, total_steps=steps, lr=1e-2, held_out=held_out)
    losses = [run.train_step(rows(k)) for k in range(steps)]
    run.finish()
    return model, losses


def test_it_is_registered_and_says_what_it_fills():
    assert get_method("bidora") is BiDoRA
    assert BiDoRA().slots().filled() == ["layer", "penalty", "procedure"]
    assert BiDoRA().slots().export.artefact == "DoRA adapter of rank r"


def test_its_fields_reach_its_parts():
    slots = BiDoRA(gram_weight=0.5, gram_form="squared", gram_rows=4, unroll_steps=3).slots()
    assert (slots.penalty.weight, slots.penalty.form, slots.penalty.rows) == (0.5, "squared", 4)
    assert slots.procedure.unroll_steps == 3
    assert slots.layer.norm_grad == "full"


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_a_fresh_adapter_is_the_base_model(build):
    inputs = batch(rows_for(build(), 4))
    expected = build().eval()(**inputs).logits
    assert torch.equal(expected, BiDoRA().apply(build()).eval()(**inputs).logits)


@pytest.mark.parametrize("mode", ["fd_forward", "fd_central", "exact", "first_order", "betty"])
def test_every_mode_trains_a_transformer_and_never_writes_the_base(mode):
    model, losses = trained(hypergradient=mode)
    assert losses[-1] < losses[0]
    inputs = rows(0)
    with model.disable_adapter():
        disabled = model.eval()(**inputs).logits
    assert torch.equal(disabled, tiny_bert().eval()(**inputs).logits)


def test_finite_differences_agree_with_autograd_on_a_transformer():
    """In float64, where only the truncation error is left."""

    def norms(mode, **options):
        method = BiDoRA(hypergradient=mode, **options)
        model = method.apply(tiny_bert(dropout=0.1).double())
        run = Loop(model, method, total_steps=8, lr=1e-2, held_out=held_out, max_grad_norm=1.0)
        seen = []
        for k in range(4):
            run.train_step(rows(k))
            seen.append(run.metrics.get("hypergradient_norm"))
        return seen[:3]

    exact = norms("exact")
    assert norms("fd_central", fd_radius=1e-3) == pytest.approx(exact, rel=1e-5)
    assert norms("fd_forward", fd_radius=1e-3) == pytest.approx(exact, rel=1e-2)
    assert norms("first_order") != pytest.approx(exact, rel=1e-4)


def test_plain_peft_loads_the_adapter(tmp_path):
    model, _ = trained()
    logits = model.eval()(**rows(0)).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path).eval()  # PEFT's own DoRA layer
    torch.testing.assert_close(loaded(**rows(0)).logits, logits, rtol=1e-5, atol=1e-6)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(**rows(0)).logits, logits, rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_bits():
    first, second = (trained()[0].state_dict() for _ in range(2))
    assert same_bits(first, second)


@pytest.mark.parametrize("mode", ["fd_forward", "fd_central", "betty"])
def test_a_detached_norm_and_a_finite_difference_do_not_mix(mode):
    with pytest.raises(MethodError, match=r"norm_grad=.detached.*24 %.*exact.*first_order"):
        BiDoRA(norm_grad="detached", hypergradient=mode)


@pytest.mark.parametrize("mode", ["exact", "first_order"])
def test_a_detached_norm_is_allowed_without_one(mode):
    assert BiDoRA(norm_grad="detached", hypergradient=mode).slots().layer.norm_grad == "detached"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gram_weight", -1.0),
        ("gram_form", "cube"),
        ("gram_rows", 1),
        ("norm_grad", "half"),
        ("val_fraction", 0.0),
        ("r", 0),
    ],
)
def test_a_wrong_field_is_named_on_construction(field, value):
    with pytest.raises(MethodError, match=rf"^BiDoRA\.{field} = .*expected"):
        BiDoRA(**{field: value})
