"""Experts, parameters of several matrices: said before training, exported whole, or refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from method_table import METHODS, method_named
from mixtures import ADAPTED, tiny_deepseek, tiny_gpt_oss, tiny_mixtral
from models import causal_rows, same_bits, tiny_llama, tokens
from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.methods import Full, HeadOnly, LoRA, LoRAPlus
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.rank_patterns import target_name
from rankwright.peft_layers.weight_change import weight_change
from rankwright.penalties.outputs import Outputs
from rankwright.training import Trainer
from rankwright.training.export import ExportError, export_adapter, export_lora, export_merged
from rankwright.training.export.merged import check_merged, merged_model
from rankwright.training.export.source import Source
from trainers import adapter, arguments

ABLE = ("lora", "lora_plus")
WITHOUT_FACTORS = ("full", "head_only")

# PEFT 0.21 looks for modules only
pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not")


def changed(model: Any, seed: int = 0) -> Any:
    """The model with factors as after some training."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(input_ids=tokens(3)).logits


# Exports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True, "rank_pattern": {"gate.weight": 2}}], ids=str
)
@pytest.mark.parametrize("build", ADAPTED)
def test_all_forms_give_the_model_in_hand(
    build: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model = changed(LoRA(r=4, **options).apply(build()))
    expected, base = logits(model), logits(build())
    assert float((expected - base).abs().max()) > 0.01
    for export in (export_adapter, export_lora):
        report = export(model, tmp_path / export.__name__)
        assert report.relative_error == 0
        loaded = PeftModel.from_pretrained(build(), tmp_path / export.__name__)
        torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)
    assert export_merged(model, tmp_path / "merged").relative_error < 1e-5
    merged = type(build()).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("build", ADAPTED)
def test_a_tie_that_rounding_decides_is_no_difference(build: Any, tmp_path: Path) -> None:
    """In bfloat16 routers choose other experts for some tokens, at these seeds among others."""
    for seed in range(3):
        model = changed(LoRA(r=4).apply(build().bfloat16(), seed=seed), seed)
        for export in (export_adapter, export_lora, export_merged):
            report = export(model, tmp_path / f"{export.__name__}-{seed}")
            assert report.logit_difference <= 0.1 * report.largest_logit


def test_a_router_that_was_not_merged_is_noticed(tmp_path: Path) -> None:
    model = changed(LoRA(r=4).apply(tiny_mixtral()))
    source = Source.of(model, None)
    merged, _ = merged_model(source)
    router = merged.get_submodule("model.layers.0.mlp.gate")
    router.weight = tiny_mixtral().model.layers[0].mlp.gate.weight
    merged.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="logits that are off by"):
        check_merged(source, tmp_path, merged, source.tolerance(None))


@pytest.mark.parametrize("build", [*ADAPTED, tiny_gpt_oss])
@pytest.mark.parametrize("method", [Full(), HeadOnly()], ids=lambda m: m.name)
def test_whole_modules_around_experts(method: Method, build: Any, tmp_path: Path) -> None:
    """Their originals stay in the model beside what is trained, and are not called."""
    model = changed(method.apply(build()))
    for export in (export_adapter, export_merged):
        report = export(model, tmp_path / export.__name__)
        assert report.logit_difference <= 1e-5 * report.largest_logit


def of_peft() -> PeftModel:
    """Experts that are stored (experts, in, out), which PEFT adapts where it is told to."""
    config = LoraConfig(
        r=4,
        target_modules=["q_proj"],
        target_parameters=["experts.gate_up_proj", "experts.down_proj", "router.weight"],
        rank_pattern={"experts.gate_up_proj": 3},
    )
    with pytest.warns(RuntimeWarning, match="rank_pattern"):
        return get_peft_model(tiny_gpt_oss(), config)


def test_experts_that_are_stored_transposed(tmp_path: Path) -> None:
    model = changed(of_peft())
    expected = logits(model)
    for export in (export_adapter, export_lora, export_merged):
        assert export(model, tmp_path / export.__name__).logit_difference < 2e-6
    merged = type(tiny_gpt_oss()).from_pretrained(tmp_path / "export_merged")
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("build", [lambda: LoRA(r=4).apply(tiny_mixtral()), of_peft])
def test_a_smaller_rank_is_the_best_of_every_expert(build: Any, tmp_path: Path) -> None:
    model = changed(build())
    report = export_lora(model, tmp_path / "lora", rank=2)
    assert report.rank == 2
    loaded = PeftModel.from_pretrained(
        tiny_gpt_oss() if build is of_peft else tiny_mixtral(), tmp_path / "lora"
    )
    written = adapted_layers(loaded.get_base_model())
    for name, layer in adapted_layers(model.get_base_model()).items():
        change, found = weight_change(layer, "default"), weight_change(written[name], "default")
        sigma = torch.linalg.svdvals(change)
        missing = torch.linalg.matrix_norm(change - found)
        torch.testing.assert_close(missing, sigma[..., 2:].norm(dim=-1), rtol=1e-4, atol=1e-5)


def test_the_change_of_every_expert_is_what_peft_adds() -> None:
    for model in (changed(LoRA(r=4).apply(tiny_mixtral())), changed(of_peft())):
        layers = {
            n: m
            for n, m in adapted_layers(model.get_base_model()).items()
            if hasattr(m, "get_param")
        }
        assert layers
        for layer in layers.values():
            dense = layer.get_delta_weight("default")
            change = weight_change(layer, "default")
            stored = dense if dense.ndim == 3 else dense[None]
            transposed = getattr(layer.get_base_layer(), "is_transposed", False) and dense.ndim == 3
            change = change.mT if transposed else change
            torch.testing.assert_close(change.float(), stored.detach())


# Training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [LoRA(r=2), LoRAPlus(r=2), LoRA(r=2).with_parts(penalty=Outputs(svd_k=2))],
    ids=lambda m: m.label,
)
def test_training_and_going_on(method: Method, tmp_path: Path) -> None:
    def run(resume: str | None = None, **changes: Any) -> Any:
        settings = arguments(tmp_path, max_steps=4, **changes)
        model = method.apply(tiny_mixtral(), seed=3)
        trainer = Trainer(model, settings, method=method, train_dataset=causal_rows(1) * 16)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(save_strategy="steps", save_steps=2)
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    again = run(resume=str(tmp_path / "checkpoint-2"))
    assert same_bits(adapter(again.model), adapter(whole.model))
    checkpoints = {"use_reentrant": False}
    less = run(activation_checkpointing=True, activation_checkpointing_kwargs=checkpoints)
    for name, tensor in adapter(whole.model).items():
        torch.testing.assert_close(adapter(less.model)[name], tensor, rtol=1e-3, atol=1e-5)
    export_adapter(whole.model, tmp_path / "adapter")


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in METHODS if n not in (*ABLE, *WITHOUT_FACTORS)])
def test_a_method_that_does_not_know_experts(name: str) -> None:
    base = tiny_mixtral()
    advice = r'target_modules=\["q_proj", "k_proj", "v_proj", "o_proj"\]'
    with pytest.raises(MethodError, match=rf"{name} does not work on .*{advice}"):
        method_named(name).apply(base)
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    method_named(name, target_modules=attention).apply(base)  # the model is as it was


@pytest.mark.parametrize("build", ADAPTED)
def test_dropout_does_not_work_on_experts(build: Any) -> None:
    with pytest.raises(MethodError, match=r"lora_dropout.*name the attention modules") as raised:
        LoRA(lora_dropout=0.1).apply(build())
    names = str(raised.value).partition("target_modules=")[2]
    model = LoRA(lora_dropout=0.1, target_modules=eval(names)).apply(build())
    assert all("self_attn" in name for name in adapted_layers(model))


def test_a_rank_that_a_router_has_not() -> None:
    with pytest.raises(
        MethodError, match=r"rank 8 is larger than the layer .*mlp\.gate\.weight \(4 x 32\)"
    ):
        LoRA(r=8).apply(tiny_mixtral())
    model = LoRA(r=8, rank_pattern={"gate.weight": 4}).apply(tiny_mixtral())
    pattern = model.peft_config["default"].rank_pattern
    assert pattern[r"^model\.layers\.1\.mlp\.gate\.weight$"] == 4
    assert pattern[r"^model\.layers\.1\.mlp\.experts\.gate_up_proj$"] == 16  # two in one


# Notices ------------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture, method: Method, base: nn.Module) -> list[str]:
    with caplog.at_level(logging.WARNING, "rankwright"):
        method.apply(base)
    return [record.getMessage() for record in caplog.records if "expert" in record.getMessage()]


def test_what_is_adapted_is_said_before_training(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = said(caplog, LoRA(r=4), tiny_mixtral())
    for part in (
        "mlp.experts.gate_up_proj (rank 8, in 2 layers)",
        "mlp.experts.down_proj (rank 4, in 2 layers)",
        "mlp.gate.weight (rank 4, in 2 layers)",
        'target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]',
    ):
        assert part in line
    assert "\n" not in line


def test_experts_that_are_left_out_are_said(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = said(caplog, LoRA(r=4), tiny_gpt_oss())
    assert line.endswith("not linear layers: mlp.experts.gate_up_proj, mlp.experts.down_proj")


@pytest.mark.parametrize(
    ("method", "build"),
    [
        (LoRA(r=2), tiny_llama),
        (LoRA(r=2, target_modules=["q_proj"]), tiny_mixtral),
        (LoRA(r=2, target_modules=["o_proj"]), tiny_deepseek),
        (HeadOnly(), tiny_mixtral),
    ],
)
def test_nothing_is_said_where_nobody_asked(
    method: Method, build: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert said(caplog, method, build()) == []


def test_names_of_parameters() -> None:
    layers = adapted_layers(LoRA(r=4).apply(tiny_mixtral()))
    names = [target_name(name, layer) for name, layer in layers.items() if "mlp" in name]
    assert sorted(names[:3]) == [
        "model.layers.0.mlp.experts.down_proj",
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.gate.weight",
    ]
