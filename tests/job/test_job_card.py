"""The README of an adapter: its calls are run as they stand, and give the trained model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertModel,
)

from models import tiny_bert, tokens
from rankwright.job.card import CONFIG_FOLDER, NAMES_SHOWN, README, loading_section, write_card
from rankwright.job.head import Head
from rankwright.methods import BiDoRA, DoRA, HeadOnly, LoRA
from rankwright.training.adapter_file import save_adapter

MANY = NAMES_SHOWN + 1


def labels(count: int) -> dict[str, Any]:
    names = {index: f'it\'s "{index}"' for index in range(count)}
    return {"num_labels": count, "id2label": names, "label2id": {n: i for i, n in names.items()}}


def trained(method: Any, base: Any) -> PeftModel:
    model = method.apply(base).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run_blocks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each Python block of the README defines, run in the folder by itself."""
    monkeypatch.chdir(folder)
    found = []
    for block in re.findall(r"```python\n(.*?)```", (folder / README).read_text("utf-8"), re.S):
        torch.manual_seed(1)  # not the seed of the base that was trained on
        names: dict[str, Any] = {}
        exec(block, names)
        found.append(names)
    return found


@pytest.mark.parametrize("method", [LoRA(r=2), DoRA(r=2), HeadOnly()], ids=lambda m: m.name)
@pytest.mark.parametrize("count", [3, MANY])
@pytest.mark.parametrize("saved", [BertModel, BertForMaskedLM])
def test_both_calls_load_a_classifier_with_its_names(
    saved: Any, method: Any, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head("AutoModelForSequenceClassification", labels(count))
    saved(tiny_bert().config).save_pretrained(tmp_path / "base")
    load = AutoModelForSequenceClassification.from_pretrained
    model = trained(method, load(tmp_path / "base", **head.model_kwargs))
    save_adapter(model, tmp_path / "adapter")
    write_card(tmp_path / "adapter", model, head)
    expected = model(tokens(4)).logits
    blocks = run_blocks(tmp_path / "adapter", monkeypatch)
    assert len(blocks) == 2
    for names in blocks:
        loaded = names["model"].eval()
        torch.testing.assert_close(loaded(tokens(4)).logits, expected, rtol=0, atol=1e-5)
        assert loaded.config.id2label == head.model_kwargs["id2label"]
    card = (tmp_path / "adapter" / README).read_text("utf-8")
    assert ("AutoConfig" in card) == (count == MANY)


@pytest.mark.parametrize("method", [LoRA(r=2), BiDoRA(r=2)], ids=lambda m: m.name)
def test_a_causal_model_needs_no_labels(
    method: Any, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(method, AutoModelForCausalLM.from_pretrained(llama_folder))
    save_adapter(model, tmp_path)
    write_card(tmp_path, model, Head("AutoModelForCausalLM", {}))
    assert not (tmp_path / CONFIG_FOLDER).exists()
    for names in run_blocks(tmp_path, monkeypatch):
        loaded = names["model"].eval()(tokens(4)).logits
        torch.testing.assert_close(loaded, model(tokens(4)).logits, rtol=0, atol=1e-5)


def test_a_head_of_another_size_in_the_file_is_left(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = AutoModelForSequenceClassification.from_pretrained
    load(bert_folder, num_labels=7).save_pretrained(tmp_path / "seven")
    head = Head("AutoModelForSequenceClassification", labels(3), replaces=True)
    base = load(tmp_path / "seven", **head.model_kwargs, ignore_mismatched_sizes=True)
    model = trained(LoRA(r=2), base)
    save_adapter(model, tmp_path / "adapter")
    write_card(tmp_path / "adapter", model, head)
    for names in run_blocks(tmp_path / "adapter", monkeypatch):
        logits = names["model"].eval()(tokens(4)).logits
        torch.testing.assert_close(logits, model(tokens(4)).logits, rtol=0, atol=1e-5)


def test_the_call_for_a_regression_says_what_it_is() -> None:
    head = Head(
        "AutoModelForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}
    )
    text = "\n".join(loading_section(head, "some/base"))
    assert text.count("num_labels=1,") == text.count("problem_type='regression',") == 2
    assert "'some/base'," in text
