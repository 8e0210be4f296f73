"""Methods whose adapters are more than LoRA factors, written as a user's method is: in one file."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import tiny_bert, tokens
from rankwright.cli import main
from rankwright.core.describe import registered_name
from rankwright.core.export import Export, Form, approximate, refused
from rankwright.core.slots import Layer, Slots
from rankwright.errors import MethodError
from rankwright.job.card import README
from rankwright.methods import DoRA, LoRA
from rankwright.peft_layers.layers import adapted_layers
from rankwright.training.export import ExportError, export_adapter, export_lora, export_merged

SHIFTS = "shifts.safetensors"


def add_shift(layer: LoraLayer, value: Tensor) -> None:
    """Add a trained vector to the output of a layer."""
    layer.shift = nn.Parameter(value.clone())
    layer.register_forward_hook(lambda module, _inputs, output: output + module.shift)


@dataclass(frozen=True)
class ShiftLayer(Layer):
    """LoRA with a trained vector added to the output, which PEFT does not load."""

    def install(self, model: PeftModel, adapter_name: str) -> None:
        for layer in adapted_layers(model).values():
            add_shift(layer, torch.zeros(layer.get_base_layer().out_features))


@dataclass(frozen=True)
class ShiftExport(Export):
    """The vectors are a side file, are lost in a plain LoRA, and have no place in a weight."""

    artefact: str = "LoRA adapter of rank r and a shift for each layer"

    side_files = (SHIFTS,)
    loads_with_peft = False

    def forms(self) -> dict[str, Form]:
        return {
            **super().forms(),
            "lora": approximate("a plain LoRA has no shifts"),
            "merged": refused("a shift is not part of a weight"),
        }

    def save_side_files(self, model: PeftModel, adapter_name: str, folder: Path) -> None:
        layers = adapted_layers(model.get_base_model())
        shifts = {name: layer.shift.detach().contiguous() for name, layer in layers.items()}
        save_file(shifts, folder / SHIFTS)

    def load_side_files(self, model: PeftModel, adapter_name: str, folder: Path) -> None:
        layers, shifts = adapted_layers(model.get_base_model()), load_file(folder / SHIFTS)
        if layers.keys() != shifts.keys():
            raise MethodError(f"{folder / SHIFTS} belongs to another base model")
        for name, shift in shifts.items():
            add_shift(layers[name], shift)


@dataclass(frozen=True, kw_only=True)
class Shifted(LoRA):
    """LoRA with shifts."""

    name = "shifted"
    summary = "W + s B A, and a shift"

    def slots(self) -> Slots:
        return Slots(layer=ShiftLayer(), export=ShiftExport())


def trained(method: Any) -> PeftModel:
    model = method.apply(tiny_bert())
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=tokens(4)).logits


# A side file, an approximate form and a refused one -----------------------------------------------


def test_side_files_are_saved_checked_and_loaded(tmp_path: Path) -> None:
    method = Shifted(r=2)
    model = trained(method)
    report = export_adapter(model, tmp_path / "out", method=method)
    assert report.form.accuracy == "exact"
    assert (tmp_path / "out" / SHIFTS).is_file()
    loaded = method.made_of().export.load(tiny_bert(), tmp_path / "out")
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=3e-6)
    by_peft = PeftModel.from_pretrained(tiny_bert(), tmp_path / "out")
    assert (logits(by_peft) - logits(model)).abs().max() > 1e-2


def test_without_the_method_the_lost_side_file_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="shift is not in what was loaded"):
        export_adapter(trained(Shifted(r=2)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_side_file_and_one_of_another_model(tmp_path: Path) -> None:
    export = ShiftExport()
    export.save(trained(Shifted(r=2)), "default", tmp_path)
    save_file({"other": torch.zeros(2)}, tmp_path / SHIFTS)
    with pytest.raises(MethodError, match="belongs to another base model"):
        export.load(tiny_bert(), tmp_path)
    (tmp_path / SHIFTS).unlink()
    with pytest.raises(MethodError, match=f"lacks {SHIFTS}"):
        export.load(tiny_bert(), tmp_path)


def test_an_approximate_form_says_why(tmp_path: Path) -> None:
    method = Shifted(r=2)
    model = trained(method)
    report = export_lora(model, tmp_path / "out", method=method)
    assert report.form == approximate("a plain LoRA has no shifts")
    assert "approximate                   a plain LoRA has no shifts" in str(report)
    assert report.logit_difference > 1e-2
    assert not (tmp_path / "out" / SHIFTS).exists()
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "out")
    for layer in adapted_layers(model).values():
        layer.shift.data.zero_()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=3e-6)


def test_a_refused_form_says_why_and_what_to_do(tmp_path: Path) -> None:
    method = Shifted(r=2)
    message = "no export as merged: a shift is not part of a weight; export it as adapter or lora"
    with pytest.raises(ExportError, match=message):
        export_merged(trained(method), tmp_path / "out", method=method)


def test_a_run_of_the_method(
    bert_folder: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Train, evaluate, export and describe it; no shared code knows the method."""
    name, run = registered_name(Shifted), tmp_path / "run"
    data = ["--text-column", "sentence", "--label-column", "topic", "--validation-share", "0.2"]
    files = ["--model", str(bert_folder), "--data", str(rows_file), "--output", str(run)]
    short = ["--steps", "6", "--learning-rate", "1e-2", "--method.r", "2"]
    assert main(["train", "--method", name, *files, *data, *short]) == 0
    shifts = load_file(run / "adapter" / SHIFTS)
    assert any(shift.abs().max() > 1e-3 for shift in shifts.values())
    capsys.readouterr()

    assert main(["eval", str(run)]) == 0
    result = json.loads((run / "result.json").read_text("utf-8"))
    assert json.loads(capsys.readouterr().out) == result["after"]

    for kind in ("adapter", "lora"):
        assert main(["export", str(run), "--as", kind]) == 0
    assert load_file(run / "adapter-export" / SHIFTS).keys() == shifts.keys()
    assert not (run / "lora-export" / SHIFTS).exists()
    capsys.readouterr()
    assert main(["export", str(run), "--as", "merged"]) == 1
    assert "a shift is not part of a weight" in capsys.readouterr().err

    card = (run / "adapter" / README).read_text("utf-8")
    assert "`peft` alone does not give the trained model" in card
    (block,) = re.findall(r"```python\n(.*?)```", card, re.S)
    monkeypatch.chdir(run / "adapter")
    found: dict[str, Any] = {}
    exec(block, found)
    loaded = adapted_layers(found["model"].get_base_model())
    assert all(torch.equal(layer.shift, shifts[name]) for name, layer in loaded.items())
    card = (run / "lora-export" / README).read_text("utf-8")
    assert "It is approximate: a plain LoRA has no shifts." in card
    assert "It loads with `peft`; rankwright is not needed." in card

    (run / "adapter" / SHIFTS).unlink()
    assert main(["eval", str(run), "--edited"]) == 1
    assert f"lacks {SHIFTS}" in capsys.readouterr().err


def test_methods_show_lists_the_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "show", registered_name(Shifted)]) == 0
    shown = capsys.readouterr().out
    assert f"saved as: {ShiftExport().artefact} (PEFT type LORA, {SHIFTS})" in shown
    assert "export --as adapter: exact\n" in shown
    assert "export --as lora: approximate: a plain LoRA has no shifts\n" in shown
    assert "export --as merged: refused: a shift is not part of a weight\n" in shown


# Forms that a method makes itself -----------------------------------------------------------------


@dataclass(frozen=True)
class OwnForms(Export):
    """Writes each change by its first rank alone, and merges by PEFT."""

    def forms(self) -> dict[str, Form]:
        return {**super().forms(), "lora": approximate("one rank is kept")}

    def lora_factors(
        self, model: PeftModel, adapter_name: str, rank: int | None, inputs: Mapping[str, Tensor]
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        assert "input_ids" in inputs
        return {
            name: (
                layer.lora_A[adapter_name].weight[:1],
                layer.scaling[adapter_name] * layer.lora_B[adapter_name].weight[:, :1],
            )
            for name, layer in adapted_layers(model.get_base_model()).items()
        }

    def merge(self, model: PeftModel, adapter_name: str) -> nn.Module:
        merged: nn.Module = copy.deepcopy(model).merge_and_unload()
        return merged


@dataclass(frozen=True, kw_only=True)
class Owned(LoRA):
    def slots(self) -> Slots:
        return Slots(export=OwnForms())


def test_a_method_computes_the_factors_of_its_plain_lora(tmp_path: Path) -> None:
    method = Owned(r=3)
    model = trained(method)
    report = export_lora(model, tmp_path / "out", method=method)
    assert (report.rank, report.form.reason) == (1, "one rank is kept")
    assert 0.1 < report.relative_error < 1
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "out")
    written = adapted_layers(loaded.get_base_model())
    for name, layer in adapted_layers(model.get_base_model()).items():
        expected = layer.lora_A["default"].weight[:1]
        assert torch.equal(written[name].lora_A["default"].weight, expected)
        assert written[name].scaling["default"] == 1.0


def test_a_method_merges_in_its_own_way(tmp_path: Path) -> None:
    method = Owned(r=3)
    report = export_merged(trained(method), tmp_path / "out", method=method)
    assert report.logit_difference <= 3e-6
    assert "relative error of the change  not defined" in str(report)


@dataclass(frozen=True)
class Ia3Export(OwnForms):
    """An adapter of a type other than LoRA."""

    peft_type = "IA3"

    def forms(self) -> dict[str, Form]:
        return {**super().forms(), "lora": refused("IA3 scales outputs and has no factors")}


@dataclass(frozen=True, kw_only=True)
class Ia3(LoRA):
    def slots(self) -> Slots:
        return Slots(export=Ia3Export())


def test_an_adapter_of_another_peft_type(tmp_path: Path) -> None:
    config = IA3Config(target_modules=["query", "value"], feedforward_modules=[])
    model = get_peft_model(tiny_bert(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3" in name:
                parameter.mul_(1.5)
    with pytest.raises(ExportError, match=r"of type .*IA3, expected LORA; .* need method="):
        export_adapter(model, tmp_path / "out")
    for export in (export_adapter, export_merged):
        report = export(model, tmp_path / export.__name__, method=Ia3())
        assert report.logit_difference <= 3e-6
    loaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "export_adapter")
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=3e-6)
    with pytest.raises(ExportError, match="no factors; export it as adapter or merged"):
        export_lora(model, tmp_path / "lora", method=Ia3())


def test_a_plugged_layer_brings_its_export() -> None:
    from rankwright.layers.dora import Dora

    assert LoRA().made_of().export.form("lora").accuracy == "exact"
    for method in (DoRA(), LoRA().with_parts(layer=Dora())):
        assert method.made_of().export.form("lora").accuracy == "approximate"
