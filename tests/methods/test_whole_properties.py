"""Full fine-tuning and head only: what is trained is what was meant, and nothing else moves."""

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from models import batch, classification_rows, rows_for, tiny_bart, tiny_bert, tiny_llama
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.parameter_groups import is_head
from rankwright.errors import MethodError
from rankwright.methods import Full, HeadOnly
from rankwright.methods._whole_modules import owners
from rankwright.training.export import ExportError, export_adapter, export_lora, export_merged


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def losses(method, base, steps: int = 3) -> tuple[PeftModel, list[float]]:
    rows = batch(rows_for(base, 4))
    model = method.apply(base)
    run = Loop(model, method, total_steps=steps, lr=1e-2, schedule=constant_schedule)
    return model, [run.train_step(rows) for _ in range(steps)]


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_full_is_fine_tuning_of_the_bare_model(build):
    """The slow reference: AdamW over the parameters of a model without PEFT."""
    _, found = losses(Full(), build())
    bare = build().train()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-2, weight_decay=0.0)
    for loss in found:
        expected = bare(**batch(rows_for(bare, 4))).loss
        assert loss == pytest.approx(float(expected.detach()), abs=1e-6)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()


def test_every_parameter_is_trained_once():
    base = tiny_bert()
    shapes = sorted(tuple(p.shape) for p in base.parameters())
    assert sorted(tuple(p.shape) for p in trained(Full().apply(base)).values()) == shapes


def test_a_parameter_beside_submodules_takes_its_module_whole():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(2))
            self.inner = nn.Linear(2, 2)

    model = nn.Sequential(Patches(), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert owners(model) == ["0", "1.0"]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_tied_words_stay_one_weight(tmp_path):
    model, _ = losses(Full(), tiny_llama(tie_word_embeddings=True))
    assert len(trained(model)) == len(list(tiny_llama(tie_word_embeddings=True).parameters()))
    base = model.get_base_model()
    assert base.lm_head.weight is base.get_input_embeddings().weight
    export_merged(model, tmp_path / "merged")


def test_head_only_trains_the_head_only():
    assert {n.split(".modules_to_save")[0] for n in trained(HeadOnly().apply(tiny_bert()))} == {
        "base_model.model.classifier"
    }
    assert {n.split(".modules_to_save")[0] for n in trained(HeadOnly().apply(tiny_llama()))} == {
        "base_model.model.lm_head"
    }


def test_a_head_of_two_layers_is_loaded_and_resumed(tmp_path):
    def build() -> RobertaForSequenceClassification:
        torch.manual_seed(0)
        config = RobertaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=40,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return RobertaForSequenceClassification(config)

    rows = batch(classification_rows(4))
    model = Full().apply(build())
    run = Loop(model, Full(), total_steps=3, lr=1e-2)
    run.train_step(rows)
    model.save_pretrained(tmp_path)
    state = run.state_dict()
    loaded = PeftModel.from_pretrained(build(), tmp_path).eval()
    assert torch.equal(loaded(**rows).logits, model.eval()(**rows).logits)
    resumed = Loop(Full().apply(build()), Full(), total_steps=3, lr=1e-2)
    resumed.load_state_dict(state)
    assert resumed.train_step(rows) == run.train_step(rows)


def test_full_refuses_an_encoder_decoder():
    model = tiny_bart()
    modules = dict(model.named_modules())
    with pytest.raises(MethodError, match=r"^full cannot train BartForSequenceClassification"):
        Full().apply(model)
    assert dict(model.named_modules()) == modules


def test_head_only_trains_the_head_of_an_encoder_decoder():
    names = {n.split(".modules_to_save")[0] for n in trained(HeadOnly().apply(tiny_bart()))}
    assert names == {"base_model.model.classification_head"}


def test_head_only_refuses_a_classifier_without_a_head_that_is_known():
    class OddForSequenceClassification(nn.Sequential):
        pass

    with pytest.raises(MethodError, match=r"head_only finds nothing to train in Odd.*has no head"):
        HeadOnly().apply(OddForSequenceClassification(nn.Linear(2, 2)))


def test_a_model_without_a_head_that_is_known_is_refused():
    body = tiny_bert().bert
    with pytest.raises(MethodError, match="head_only finds nothing to train in BertModel"):
        HeadOnly().apply(body)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_a_tied_head_leaves_the_embeddings_alone():
    model, _ = losses(HeadOnly(), tiny_llama(tie_word_embeddings=True))
    base = model.get_base_model()
    fresh = tiny_llama(tie_word_embeddings=True)
    assert torch.equal(base.get_input_embeddings().weight, fresh.get_input_embeddings().weight)
    assert not torch.equal(base.lm_head.weight, fresh.lm_head.weight)


def test_the_rate_of_a_head_is_not_that_of_the_body():
    model = Full().apply(tiny_bert())
    heads = {name for name in trained(model) if is_head(name, model)}
    assert {name.split(".")[2] for name in heads} == {"classifier"}
    assert len(trained(model)) > len(heads) > 0


def test_exports(tmp_path):
    model, _ = losses(Full(), tiny_bert())
    assert export_adapter(model, tmp_path / "adapter").logit_difference == 0
    assert export_merged(model, tmp_path / "merged").logit_difference == 0
    with pytest.raises(ExportError, match="whole modules and no factors"):
        export_lora(model, tmp_path / "lora", 4)


@pytest.mark.parametrize("field", [{"r": 4}, {"lora_alpha": 1.0}, {"target_modules": ["query"]}])
@pytest.mark.parametrize("method", [Full, HeadOnly])
def test_fields_without_effect_are_refused(method, field):
    with pytest.raises(MethodError, match="has no low-rank factors"):
        method(**field)
