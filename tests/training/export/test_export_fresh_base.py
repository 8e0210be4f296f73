"""An adapter is exported if it fits the base model's file, not the model in hand alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from models import tiny_bert, tiny_llama, tokens
from rankwright.methods import DoRA, LoRA
from rankwright.training.export import ExportError, export_adapter, export_lora, export_merged
from rankwright.training.progress_bars import no_progress_bars

ADAPTERS = [export_adapter, export_lora]


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with no_progress_bars():
        yield


def moved(model: PeftModel) -> PeftModel:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def without_pooler(tmp_path: Path) -> Path:
    """A BERT that was saved without its pooler."""
    folder = tmp_path / "base"
    body = tiny_bert().bert
    body.pooler = None
    body.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("export", ADAPTERS)
def test_factors_on_a_random_pooler_are_seen(
    export: Any, without_pooler: Path, tmp_path: Path
) -> None:
    """PEFT by itself puts them there."""
    base = AutoModelForSequenceClassification.from_pretrained(without_pooler, num_labels=3)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "pooler.dense"])
    model = moved(get_peft_model(base, config))
    with pytest.raises(ExportError, match=r"base' has other values of bert\.pooler\.dense\.weight"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_merged(model, tmp_path / "merged")


@pytest.mark.parametrize("export", ADAPTERS)
def test_ours_pass_with_a_pooler_that_is_saved(
    export: Any, without_pooler: Path, tmp_path: Path
) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(without_pooler, num_labels=3)
    model = moved(LoRA(r=2).apply(base))
    export(model, tmp_path / "out")
    again = AutoModelForSequenceClassification.from_pretrained(without_pooler, num_labels=3)
    loaded = PeftModel.from_pretrained(again, tmp_path / "out").eval()
    with torch.no_grad():
        logits = loaded(tokens(4)).logits, model.eval()(tokens(4)).logits
    torch.testing.assert_close(*logits)


def test_a_truncated_adapter_is_held_to_the_file_too(without_pooler: Path, tmp_path: Path) -> None:
    base = AutoModel.from_pretrained(without_pooler)
    config = LoraConfig(r=4, target_modules=["query"])
    model = moved(get_peft_model(base, config))
    model.get_base_model().encoder.layer[0].output.dense.weight.data.mul_(2)
    with pytest.raises(ExportError, match=r"encoder\.layer\.0\.output\.dense\.weight"):
        export_lora(model, tmp_path / "out", 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", [LoRA(r=2), DoRA(r=2)], ids=lambda m: m.name)
def test_a_base_in_another_dtype_is_the_file_s(
    method: Any, dtype: torch.dtype, llama_folder: Path, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=dtype)
    export_adapter(moved(method.apply(base)), tmp_path / "out")


def test_added_tokens_are_saved_by_peft(llama_folder: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    base.resize_token_embeddings(70, mean_resizing=False)
    export_adapter(moved(LoRA(r=2).apply(base)), tmp_path / "out")


@pytest.mark.parametrize("place", ["", "/not/there"])
def test_a_base_without_a_file_is_not_checked(place: str, tmp_path: Path) -> None:
    base = tiny_llama()
    base.name_or_path = place
    export_adapter(moved(LoRA(r=2).apply(base)), tmp_path / "out")
