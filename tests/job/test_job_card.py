"""The README of an adapter: its calls are run as they stand, and give the trained model."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertModel,
)

from models import tiny_bert, tokens
from rankwright.cli import main
from rankwright.cli.quiet import quiet
from rankwright.job import TrainConfig, train
from rankwright.job.card import (
    CONFIG_FOLDER,
    NAMES_SHOWN,
    README,
    Facts,
    Score,
    front_matter,
    loading_section,
    write_card,
)
from rankwright.job.head import Head
from rankwright.methods import BiDoRA, DoRA, HeadOnly, LoRA
from rankwright.peft_layers.adapter_file import save_adapter

MANY = NAMES_SHOWN + 1
FACTS = Facts(
    name="lora-topics-0", base="some/base", method="lora", label="lora", summary="W + s B A",
    reference="Hu et al.", task="topics", scores=[Score("validation", "accuracy", 9, 0.5, 0.75)],
    settings={"r": 2, "data": "/mine/rows.csv", "a|b": None},
)  # fmt: skip


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
    write_card(tmp_path / "adapter", model, head, FACTS)
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
    write_card(tmp_path, model, Head("AutoModelForCausalLM", {}), FACTS)
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
    write_card(tmp_path / "adapter", model, head, FACTS)
    for names in run_blocks(tmp_path / "adapter", monkeypatch):
        logits = names["model"].eval()(tokens(4)).logits
        torch.testing.assert_close(logits, model(tokens(4)).logits, rtol=0, atol=1e-5)


def test_the_call_for_a_regression_names_the_problem_type() -> None:
    head = Head(
        "AutoModelForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}
    )
    text = loading_section(head, "some/base")
    assert text.count("num_labels=1,") == text.count("problem_type='regression',") == 2
    assert "'some/base'," in text


def test_a_run_writes_a_card_that_describes_it(config: TrainConfig) -> None:
    """Base, method, metrics with rows, cost and versions; and metadata that the hub can read."""
    changed = {"eval_rows": 5, "weight_decay": 0.125, "trainer": {"adam_beta1": 0.8}}
    with quiet():
        folder, result = train(dataclasses.replace(config, **changed), DoRA(r=2))
    text = (folder.adapter / README).read_text("utf-8")
    card = ModelCard(text)
    card.validate = None  # type: ignore[method-assign]  # asks the hub
    data = card.data
    assert data.base_model == Path(config.model).name
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-classification")
    assert data.tags == ["rankwright", "dora"]
    assert data.metrics == ["accuracy", "macro_f1"]
    (evaluation,) = data.eval_results or []
    assert (evaluation.metric_type, evaluation.dataset_split) == ("accuracy", "validation")
    assert evaluation.metric_value == result.after["accuracy"]
    assert "# dora on train\n" in text
    assert DoRA.summary in text
    assert DoRA.reference in text
    for name, before in result.before.items():
        row = f"| validation {name} | 5 | {before:.4f} | {result.after[name]:.4f} |"
        assert row in text
    for row in (
        "| method | dora |", "| r | 2 |", "| learning_rate | 0.0005 |", "| batch_size | 4 |",
        "| weight_decay | 0.125 |", "| seed | 0 |", "| steps, passes | 8, 8 |",
        f"| training rows | {result.train_rows} |", "| trainer | {'adam_beta1': 0.8} |",
    ):  # fmt: skip
        assert row in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert str(config.data) not in text
    assert "[More Information Needed]" not in text  # of PEFT's template


def test_the_metadata_are_yaml_whatever_the_names() -> None:
    odd = dataclasses.replace(FACTS, task='a: "b" # c', base="me/x: y")
    head = Head("AutoModelForTokenClassification", {})
    start, yaml_text, end = front_matter(odd, head).split("---")
    assert (start, end) == ("", "")
    values = yaml.safe_load(yaml_text)
    assert values["base_model"] == "me/x: y"
    assert values["model-index"][0]["results"][0]["dataset"]["name"] == 'a: "b" # c'
    assert values["pipeline_tag"] == "token-classification"


@pytest.mark.parametrize("after", [math.nan, math.inf])
def test_a_nan_metric_is_not_in_the_metadata(after: float) -> None:
    score = Score("validation", "perplexity", 9, 2.0, after)
    diverged = dataclasses.replace(FACTS, scores=[score])
    text = front_matter(diverged, Head("AutoModelForCausalLM", {}))
    assert "model-index" not in text
    assert "perplexity" in text


def test_the_card_of_an_export_describes_it(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with quiet():
        folder, result = train(config, DoRA(r=2))
    assert main(["export", str(folder.path), "--as", "lora", "--rank", "4"]) == 0
    text = (folder.path / "lora-export" / README).read_text("utf-8")
    assert "This is the adapter exported as a plain LoRA." in text
    assert f"| {result.after['accuracy']:.4f} |" in text
    assert main(["export", str(folder.path), "--as", "adapter"]) == 0
    same = (folder.path / "adapter-export" / README).read_text("utf-8")
    assert same == (folder.adapter / README).read_text("utf-8")
