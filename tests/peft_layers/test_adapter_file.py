"""One file that plain PEFT and transformers' own loader read alike, magnitudes included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from models import tiny_bert, tiny_llama, tokens
from rankwright.methods import BiDoRA, DoRA, LoRA
from rankwright.peft_layers.adapter_file import rename_magnitudes, save_adapter
from rankwright.training.export import export_adapter, export_lora, export_merged


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    )


def moved(model: PeftModel) -> PeftModel:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.rand_like(parameter))
    return model.eval()


@pytest.mark.filterwarnings("ignore:Could not find a config file")
@pytest.mark.parametrize("build", [tiny_bert, tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("method", [DoRA(r=2), BiDoRA(r=2), LoRA(r=2)], ids=lambda m: m.name)
@pytest.mark.parametrize("write", [save_adapter, export_adapter])
def test_both_loaders_give_the_trained_model(
    build: Any, method: Any, write: Any, tmp_path: Path
) -> None:
    model = moved(method.apply(build()))
    write(model, tmp_path)
    expected = model(input_ids=tokens(4)).logits
    own = build()
    report = own.load_adapter(str(tmp_path))
    assert not report.missing_keys
    assert not report.unexpected_keys
    for loaded in (own, PeftModel.from_pretrained(build(), tmp_path)):
        logits = loaded.eval()(input_ids=tokens(4)).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("write", ["save", "adapter", "lora", "merged"])
def test_an_adapter_of_any_name_loads_from_the_folder_itself(
    write: str, use_dora: bool, tmp_path: Path
) -> None:
    """PEFT puts the files of an adapter that is not called "default" into a subfolder."""
    config = LoraConfig(r=2, target_modules=["query"], use_dora=use_dora, task_type="SEQ_CLS")
    model = moved(get_peft_model(tiny_bert(), config, adapter_name="mine"))
    expected = model(input_ids=tokens(4)).logits
    out = tmp_path / "out"
    if write == "save":
        save_adapter(model, out, "mine")
    elif write == "adapter":
        export_adapter(model, out)
    elif write == "lora":
        export_lora(model, out, 32)
    else:
        export_merged(model, out)
    if write == "merged":
        loaded = BertForSequenceClassification.from_pretrained(out)
    else:
        loaded = PeftModel.from_pretrained(tiny_bert(), out)
    logits = loaded.eval()(input_ids=tokens(4)).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert not [path for path in out.iterdir() if path.is_dir()]


def test_every_tensor_keeps_its_bits(tmp_path: Path) -> None:
    model = moved(DoRA(r=2).apply(tiny_bert()))
    save_adapter(model, tmp_path)
    written = load_file(tmp_path / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(model)
    names = {name.removesuffix(".weight"): name for name in written}
    assert {name.removesuffix(".weight") for name in expected} == names.keys()
    for name, tensor in expected.items():
        assert torch.equal(written[names[name.removesuffix(".weight")]], tensor)
    assert sum(name.endswith(".lora_magnitude_vector.weight") for name in written) == 13
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("method", [DoRA(r=2), LoRA(r=2)], ids=lambda m: m.name)
def test_a_file_in_that_form_is_left_alone(method: Any, tmp_path: Path) -> None:
    save_adapter(method.apply(tiny_bert()), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    before = file.read_bytes()
    rename_magnitudes(tmp_path)
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", file.name}
    assert not list(tmp_path.glob(".*"))
