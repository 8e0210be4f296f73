"""BA-LoRA against `data/ba-lora`: the authors' terms, and their gradients to the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fake_forward import fake
from rankwright.penalties import Outputs

DATA = Path(__file__).parent / "data" / "ba-lora"

ALONE: dict[str, Any] = {"consistency": 0.0, "diversity": 0.0, "spectral": 0.0}
TOKENS = {
    "nlg_paper_defaults": (30, 100, {"svd_k": 10, "top_k": 20, "temperature": 2.0}),
    "nlg_nuclear_fullentropy": (
        5,
        50,
        {
            "svd_k": 3,
            "top_k": 0,
            "temperature": 1.0,
            "norm": "nuclear",
            "consistency_schedule": "constant",
            "warmup": 0.2,
            "warmup_shape": "quadratic",
        },
    ),
}
CLASSES: dict[str, dict[str, Any]] = {"nlu_d6": {"svd_k": 2}, "nlu_inert_svd_d3": {"svd_k": 5}}


def value_and_gradient(
    g: dict[str, Tensor], penalty: Outputs, **options: Any
) -> tuple[Tensor | None, Tensor, Any]:
    z = g["ft_logits"].clone().requires_grad_()
    run, forward = fake(z, g["pt_logits"], g.get("labels"), **options)
    value = penalty.of_outputs(run, forward)
    if value is not None:
        value.backward()
    grad = torch.zeros_like(z) if z.grad is None else z.grad
    return None if value is None else value.detach(), grad, run


def close(found: Any, expected: Tensor, rtol: float) -> None:
    atol = rtol * max(float(expected.abs().max()), 1e-3)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("file", TOKENS)
def test_tokens(file: str) -> None:
    g = load_file(DATA / f"{file}.safetensors")
    step, total, fields = TOKENS[file]
    at = {"step": step, "total_steps": total}
    penalty = Outputs(causal_shift=False, **fields)  # the reference takes logits at the labels
    weights = penalty._weights(fake(g["ft_logits"], g["pt_logits"], **at)[0], tokens=True)
    close(torch.tensor(list(weights.values()), dtype=torch.float64), g["lambda_used"], 1e-8)
    value, grad, run = value_and_gradient(g, penalty, **at)
    close(value, g["total"] - g["task_loss"], 1e-8)
    for name, key in (("consistency", "kl"), ("diversity", "neg_entropy"), ("spectral", "svd")):
        close(torch.tensor(run.noted[name], dtype=torch.float64), g[key], 1e-8)
    parts = (g[f"dZ_{key}"] * w for key, w in zip(("kl", "ent", "svd"), g["lambda_used"]))  # noqa: B905
    close(grad, sum(parts), 1e-8)  # type: ignore[arg-type]


@pytest.mark.parametrize("file", TOKENS)
@pytest.mark.parametrize(
    ("term", "key"), [("consistency", "kl"), ("diversity", "ent"), ("spectral", "svd")]
)
def test_tokens_term_by_term(file: str, term: str, key: str) -> None:
    g = load_file(DATA / f"{file}.safetensors")
    fields = {**TOKENS[file][2], "consistency_schedule": "constant", "warmup": 0.0}
    _, grad, _ = value_and_gradient(
        g, Outputs(causal_shift=False, **{**fields, **ALONE, term: 1.0})
    )
    close(grad, g[f"dZ_{key}"], 1e-8)


@pytest.mark.parametrize("file", CLASSES)
def test_classes(file: str) -> None:
    g = load_file(DATA / f"{file}.safetensors")
    fields = {**CLASSES[file], "temperature": 2.0}
    value, grad, run = value_and_gradient(g, Outputs(**fields), task="SEQ_CLS")
    constant = 0.03 * g["svd"] if "spectral" not in run.noted else 0.0
    close(value, g["total_reg"] - constant, 1e-9)
    close(grad, g["dZ_total"], 1e-9)
    close(torch.tensor(run.noted["consistency"], dtype=torch.float64), g["kl"], 1e-9)
    close(torch.tensor(run.noted["diversity"], dtype=torch.float64), g["cov_offdiag"], 1e-9)
    for term, key in (("consistency", "kl"), ("diversity", "cov"), ("spectral", "svd")):
        single = Outputs(**{**fields, **ALONE, term: 1.0, "consistency_schedule": "constant"})
        close(value_and_gradient(g, single, task="SEQ_CLS")[1], g[f"dZ_{key}"], 1e-9)


def test_where_the_spectral_term_is_inert_the_reference_is_the_constant_minus_one() -> None:
    g = load_file(DATA / "nlu_inert_svd_d3.safetensors")
    _, _, run = value_and_gradient(g, Outputs(svd_k=5), task="SEQ_CLS")
    assert float(g["svd"]) == pytest.approx(-1, abs=1e-10)
    assert not g["dZ_svd"].abs().max() > 1e-12
    assert "spectral" not in run.noted
    assert "the spectral term has no effect: svd_k = 5" in run.said[0]
