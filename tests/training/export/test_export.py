"""Exports are loaded by plain PEFT or transformers and compared with independent formulas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from models import tiny_bert, tiny_llama, tokens
from rankwright.methods import DoRA, LoRA, XGBLoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.weight_change import weight_change
from rankwright.peft_layers.weight_view import as_rows, effective_weight
from rankwright.training.export import ExportError, export_adapter, export_lora, export_merged
from rankwright.training.export.probe import probe_inputs

METHODS = [LoRA(r=4), DoRA(r=4), LoRA(r=4, use_rslora=True, rank_pattern={"value": 3})]
EXPORTS = [export_adapter, export_lora, export_merged]


def perturbed(model: PeftModel, seed: int = 3) -> PeftModel:
    """Move every trained parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter))
    return model


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.double()


class TinyConvolutions(nn.Module):
    """An embedding, a one- and a two-dimensional convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 12)
        self.line = nn.Conv1d(12, 8, 3, padding=1)
        self.plane = nn.Conv2d(1, 6, (3, 2), padding=1)
        self.out = nn.Linear(6, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.line(self.words(ids).transpose(1, 2))
        return self.out(self.plane(x[:, None]).mean(dim=(2, 3)))


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    )


# What is written computes the same ---------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=["lora", "dora", "rslora"])
def test_adapter_loads_in_plain_peft(method: Any, tmp_path: Path) -> None:
    model = perturbed(method.apply(tiny_bert()))
    report = export_adapter(model, tmp_path / "out")
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "out")
    ids = tokens(4)
    assert (logits(loaded, ids) - logits(model, ids)).abs().max() <= 3e-6
    assert (report.kind, report.rank, report.relative_error) == ("adapter", 4, 0.0)
    assert report.size_bytes == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("rank", [None, 4, 9])
def test_a_lora_within_the_rank_is_written_bit_for_bit(rank: int | None, tmp_path: Path) -> None:
    model = perturbed(METHODS[2].apply(tiny_bert()))
    report = export_lora(model, tmp_path / "lora", rank)
    export_adapter(model, tmp_path / "adapter")
    written = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    as_it_is = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert written.keys() == as_it_is.keys()
    assert all(torch.equal(written[key], as_it_is[key]) for key in written)
    assert (report.rank, report.relative_error) == (4, 0.0)
    assert report.logit_difference < 1e-6  # PEFT's forward adds in another order


@pytest.mark.parametrize("method", METHODS, ids=["lora", "dora", "rslora"])
def test_truncation_is_the_best_one_and_its_error_is_measured(method: Any, tmp_path: Path) -> None:
    model = perturbed(method.apply(tiny_bert().double()))
    report = export_lora(model, tmp_path / "out", rank=2)
    loaded = PeftModel.from_pretrained(tiny_bert().double(), tmp_path / "out")
    missing, whole = 0.0, 0.0
    for name, layer in adapted_layers(model.get_base_model()).items():
        W = layer.get_base_layer().weight.detach()
        sigma = torch.linalg.svdvals(effective_weight(layer, "default") - W)
        best = float(sigma[2:].norm() / sigma.norm())
        assert report.layer_errors[name] == pytest.approx(best, rel=1e-6)
        copy = loaded.get_base_model().get_submodule(name)
        assert (copy.r["default"], copy.scaling["default"]) == (2, 1.0)
        written = effective_weight(copy, "default") - effective_weight(layer, "default")
        assert float(written.norm() / sigma.norm()) == pytest.approx(best, rel=1e-5)
        missing, whole = missing + sigma[2:].norm() ** 2, whole + sigma.norm() ** 2
    assert report.relative_error == pytest.approx(float((missing / whole).sqrt()), rel=1e-6)


def test_the_magnitude_of_a_dora_is_in_the_lora(tmp_path: Path) -> None:
    model = DoRA(r=2).apply(tiny_llama())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1.5)  # B = 0: the change is W / 2, of full rank
    report = export_lora(model, tmp_path / "out", rank=32)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "out")
    assert report.relative_error <= 1e-5
    assert report.logit_difference <= 1e-5 * report.largest_logit
    ids = tokens(4)
    assert (logits(loaded, ids) - logits(model, ids)).abs().max() <= 1e-5


def test_layers_of_several_ranks_keep_theirs(tmp_path: Path) -> None:
    method = LoRA(r=6, lora_alpha=7, rank_pattern={"layer.0.attention.self.query": 2})
    model = perturbed(method.apply(tiny_bert()))
    report = export_lora(model, tmp_path / "out", rank=4)
    query = "bert.encoder.layer.0.attention.self.query"
    assert report.layer_errors[query] <= 1e-7
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "out").get_base_model()
    ranks = {n: layer.r["default"] for n, layer in adapted_layers(loaded).items()}
    assert ranks.pop(query) == 2
    assert set(ranks.values()) == {4}


def test_a_chain_is_a_lora_of_the_summed_rank(tmp_path: Path) -> None:
    from rankwright.core.loop import Loop

    method = XGBLoRA(r=1, rounds=3, layers_per_round=None)
    model = method.apply(tiny_bert())
    run = Loop(model, method, total_steps=6, lr=1e-2)
    for _ in range(6):
        run.train_step({"input_ids": tokens(4), "labels": torch.tensor([0, 1, 0, 1])})
    run.finish()
    assert export_lora(model, tmp_path / "exact").logit_difference <= 3e-6
    assert export_lora(model, tmp_path / "cut", 2).rank == 2
    assert export_merged(model, tmp_path / "merged").logit_difference <= 3e-6


@pytest.mark.parametrize("method", METHODS, ids=["lora", "dora", "rslora"])
@pytest.mark.parametrize(
    ("dtype", "lost", "off"),
    [(torch.float64, 1e-15, 1e-14), (torch.float32, 1e-6, 1e-6), (torch.bfloat16, 2e-2, 2e-2)],
    ids=["float64", "float32", "bfloat16"],
)
def test_merged_model(
    method: Any, dtype: torch.dtype, lost: float, off: float, tmp_path: Path
) -> None:
    model = perturbed(method.apply(tiny_bert().to(dtype)))
    report = export_merged(model, tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.dtype == dtype
    assert report.rank is None
    assert report.relative_error <= lost
    assert report.logit_difference <= off
    ids = tokens(4)
    assert (logits(loaded, ids) - logits(model, ids)).abs().max() <= off
    for name, layer in adapted_layers(model.get_base_model()).items():
        W = layer.get_base_layer().weight.detach()
        expected = W.double() + weight_change(layer, "default")
        assert torch.equal(loaded.get_submodule(name).weight, expected.to(dtype))


@pytest.mark.parametrize("use_dora", [False, True])
def test_convolutions_and_embeddings(use_dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = TinyConvolutions().double()
    targets = ["words", "line", "plane", "out"]
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_dora=use_dora)
    model = perturbed(get_peft_model(base, config))
    probe = {"ids": torch.arange(20).view(2, 10)}
    export_adapter(model, tmp_path / "adapter", probe=probe)
    full = export_lora(model, tmp_path / "lora", rank=12, probe=probe, tolerance=1e-10)
    assert full.relative_error <= 1e-12
    assert full.logit_difference <= 1e-12
    assert export_lora(model, tmp_path / "cut", rank=2, probe=probe).relative_error > 0.01


@pytest.mark.parametrize("use_dora", [False, True])
def test_conv1d_of_gpt2(use_dora: bool, tmp_path: Path) -> None:
    targets = ["c_attn", "c_proj", "c_fc"]
    config = LoraConfig(r=4, target_modules=targets, fan_in_fan_out=True, use_dora=use_dora)
    model = perturbed(get_peft_model(tiny_gpt2(), config))
    for export in (export_adapter, export_merged):
        report = export(model, tmp_path / export.__name__)
        assert report.logit_difference <= 3e-6
    assert export_lora(model, tmp_path / "lora", rank=16).relative_error <= 1e-5


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "q_proj"]])
def test_tied_embeddings_are_untied_once_merged(targets: list[str], tmp_path: Path) -> None:
    base = tiny_llama(tie_word_embeddings=True).double()
    model = perturbed(get_peft_model(base, LoraConfig(r=2, target_modules=targets)))
    report = export_merged(model, tmp_path / "out")
    assert report.logit_difference <= 1e-12
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert base.config.tie_word_embeddings is True


def test_tied_embeddings_stay_tied_when_they_are_not_adapted(tmp_path: Path) -> None:
    model = perturbed(LoRA(r=2).apply(tiny_llama(tie_word_embeddings=True).double()))
    assert export_merged(model, tmp_path / "out").logit_difference <= 1e-12
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize("use_dora", [False, True])
def test_weight_change_is_what_the_effective_weight_adds(use_dora: bool) -> None:
    torch.manual_seed(0)
    base = TinyConvolutions().double()
    with torch.no_grad():
        base.out.weight[2] = 0
    targets = ["words", "line", "plane", "out"]
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_dora=use_dora)
    model = get_peft_model(base, config)
    zero_row = weight_change(base.out, "default")[2]
    assert torch.equal(zero_row, torch.zeros_like(zero_row))
    perturbed(model)
    for layer in adapted_layers(model).values():
        W = layer.get_base_layer().weight.detach()
        expected = as_rows(layer, effective_weight(layer, "default") - W)
        torch.testing.assert_close(weight_change(layer, "default"), expected, rtol=0, atol=1e-14)


# The model in hand is left alone -----------------------------------------------------------------


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_keeps_every_bit(export: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    model = perturbed(LoRA(r=4).apply(tiny_bert(dropout=0.1).to(dtype)))
    model.train()
    model.get_base_model().bert.embeddings.eval()
    before, modes = bits(model), [module.training for module in model.modules()]
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    storage = {n: p.data_ptr() for n, p in model.named_parameters()}
    random_state = torch.get_rng_state()
    export(model, tmp_path / "out")
    assert all(torch.equal(before[name], tensor) for name, tensor in bits(model).items())
    assert modes == [module.training for module in model.modules()]
    assert trained == [n for n, p in model.named_parameters() if p.requires_grad]
    assert storage == {n: p.data_ptr() for n, p in model.named_parameters()}
    assert torch.equal(random_state, torch.get_rng_state())


# The folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", EXPORTS)
def test_a_folder_is_replaced_only_when_asked(export: Any, tmp_path: Path) -> None:
    model = LoRA(r=4).apply(tiny_bert())
    export(model, tmp_path / "out")
    with pytest.raises(ExportError, match="overwrite=True"):
        export(model, tmp_path / "out")
    export(perturbed(model), tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_takes_no_folder_that_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    model = LoRA(r=4).apply(tiny_bert())
    with pytest.raises(ExportError, match="holds no model"):
        export_adapter(model, tmp_path / "thesis", overwrite=True)
    with pytest.raises(ExportError, match="is a file"):
        export_adapter(model, tmp_path / "thesis" / "chapter.txt", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").exists()


@pytest.mark.parametrize("export", EXPORTS)
def test_what_does_not_load_as_written_is_not_kept(
    export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = perturbed(LoRA(r=4).apply(tiny_bert()))
    export(model, tmp_path / "out")
    first = sorted((f.name, f.read_bytes()) for f in (tmp_path / "out").iterdir())

    def damage(path: Path, folder: Path) -> None:
        tensors = load_file(folder / path)
        key = next(iter(tensors))
        save_file({**tensors, key: tensors[key] + 1e-3}, folder / path, metadata={"format": "pt"})

    for loader in (PeftModel, type(model.get_base_model())):
        original = loader.from_pretrained.__func__

        def damaged(cls: Any, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            folder = Path(next(a for a in args if isinstance(a, str | Path)))
            for file in folder.glob("*.safetensors"):
                damage(Path(file.name), folder)
            return original(cls, *args, **kwargs)

        monkeypatch.setattr(loader, "from_pretrained", classmethod(damaged))
    with pytest.raises(ExportError, match="not the same after loading"):
        export(perturbed(model, seed=4), tmp_path / "out", overwrite=True)
    assert sorted((f.name, f.read_bytes()) for f in (tmp_path / "out").iterdir()) == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_logits_outside_the_tolerance_are_an_error(tmp_path: Path) -> None:
    model = perturbed(LoRA(r=4).apply(tiny_bert().to(torch.bfloat16)))
    with pytest.raises(ExportError, match="off by"):
        export_merged(model, tmp_path / "out", tolerance=0.0)
    assert list(tmp_path.iterdir()) == []


# Errors speak ------------------------------------------------------------------------------------


def disabled(model: PeftModel) -> PeftModel:
    model.base_model.disable_adapter_layers()
    return model


def with_second_adapter(model: PeftModel) -> PeftModel:
    model.add_adapter("second", LoraConfig(r=2, target_modules=["query"]))
    return model


def merged_in_place(model: PeftModel) -> PeftModel:
    model.merge_adapter()
    return model


def with_trained_base(model: PeftModel) -> PeftModel:
    model.get_base_model().bert.embeddings.LayerNorm.weight.requires_grad_(True)
    return model


def with_nan(model: PeftModel) -> PeftModel:
    next(m for m in model.modules() if isinstance(m, LoraLayer)).lora_A["default"].weight.data[
        0
    ] = torch.nan
    return model


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (disabled, "switched off in bert.*enable it"),
        (with_second_adapter, "carries the adapters default, second"),
        (merged_in_place, "merged into the layer: unmerge"),
        (with_trained_base, "LayerNorm.weight and 0 more"),
        (with_nan, "NaN or infinite"),
        (lambda model: model.unload(), "expected a PeftModel, got a BertForSequenceClassification"),
    ],
)
def test_a_model_that_cannot_be_exported(spoil: Any, message: str, tmp_path: Path) -> None:
    model = spoil(LoRA(r=4).apply(tiny_bert()))
    with pytest.raises(ExportError, match=message):
        export_adapter(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_an_init_has_changed(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["query"], init_lora_weights="pissa")
    model = get_peft_model(tiny_bert(), config)
    for export in (export_adapter, export_lora):
        with pytest.raises(ExportError, match="'pissa' has changed the base weights"):
            export(model, tmp_path / "out")
    assert export_merged(model, tmp_path / "out").logit_difference <= 3e-6


def test_trained_biases_and_bias_of_the_factors(tmp_path: Path) -> None:
    for options, message in (({"bias": "all"}, "bias='all'"), ({"lora_bias": True}, "lora_bias")):
        config = LoraConfig(r=2, target_modules=["query"], **options)
        with pytest.raises(ExportError, match=message):
            export_lora(get_peft_model(tiny_bert(), config), tmp_path / "out")


@pytest.mark.parametrize("rank", [0, -1, 2.5])
def test_rank_is_a_positive_integer(rank: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"rank = {rank}: expected an integer of at least 1"):
        export_lora(LoRA(r=4).apply(tiny_bert()), tmp_path / "out", rank)


def test_a_dora_needs_a_rank(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="state the rank of the LoRA, 8 say"):
        export_lora(DoRA(r=4).apply(tiny_bert()), tmp_path / "out")


def test_a_merged_weight_that_overflows(tmp_path: Path) -> None:
    model = LoRA(r=4).apply(tiny_bert().to(torch.float16))
    with torch.no_grad():
        layer = adapted_layers(model)["base_model.model.bert.pooler.dense"]
        layer.lora_A["default"].weight.fill_(300.0)
        layer.lora_B["default"].weight.fill_(-300.0)
        layer.lora_A["default"].weight[1:] = 0  # 90,000 s beyond float16's 65,504
    with pytest.raises(ExportError, match=r"pooler\.dense is NaN or infinite in torch\.float16"):
        export_merged(model, tmp_path / "out")


def test_what_cannot_be_merged_or_probed(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["out"])
    model = get_peft_model(TinyConvolutions(), config)
    with pytest.raises(ExportError, match="pass probe="):
        export_adapter(model, tmp_path / "out")
    with pytest.raises(ExportError, match="not a transformers model"):
        export_merged(model, tmp_path / "out", probe={"ids": torch.arange(10)[None]})


def test_weights_tied_in_other_ways_are_refused(tmp_path: Path) -> None:
    base = tiny_llama()
    base.model.layers[1].self_attn.q_proj.weight = base.model.layers[0].self_attn.q_proj.weight
    model = perturbed(LoRA(r=2, target_modules=["layers.0.self_attn.q_proj"]).apply(base))
    with pytest.raises(ExportError, match=r"layers.0.self_attn.q_proj.weight and .* one weight"):
        export_merged(model, tmp_path / "out")


# The report --------------------------------------------------------------------------------------


def test_the_report_reads_as_a_table(tmp_path: Path) -> None:
    model = perturbed(LoRA(r=4).apply(tiny_bert()))
    report = export_lora(model, tmp_path / "out", rank=2)
    text = str(report)
    assert "relative error of the change  5." in text
    assert f"{report.size_bytes:,} bytes" in text
    assert max(report.layer_errors, key=report.layer_errors.get) in text
    assert "worst layer" not in str(export_adapter(model, tmp_path / "adapter"))


def test_the_probe_is_the_same_every_time() -> None:
    first, second = (probe_inputs(tiny_bert(), None) for _ in range(2))
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert first["input_ids"].shape == (1, 32)


def test_a_merged_model_needs_nothing_else(tmp_path: Path) -> None:
    model = perturbed(LoRA(r=4).apply(tiny_bert()))
    export_merged(model, tmp_path / "out")
    moved = shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert {"config.json", "model.safetensors"} <= {f.name for f in Path(moved).iterdir()}
