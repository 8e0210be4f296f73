"""Modules that no file has are trained whole and saved: everyone loads the same model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from peft import PeftModel
from torch import Tensor, nn

from models import tiny_bert, tokens
from rankwright.errors import MethodError
from rankwright.methods import Full, HeadOnly, LoRA, OLoRA, PiSSA
from rankwright.peft_layers.heads import (
    FILLED,
    matching,
    missing_parameters,
    outermost,
    whole_modules,
)
from rankwright.training.export import export_adapter
from rankwright.training.progress_bars import no_progress_bars

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
TEXT = {"vocab_size": 64, "num_attention_heads": 4, "max_position_embeddings": 40, **SIZES}
BERT = T.BertConfig(**TEXT)
ROBERTA = T.RobertaConfig(**TEXT)
DEBERTA = T.DebertaV2Config(**TEXT)
ELECTRA = T.ElectraConfig(**TEXT, embedding_size=16)
ALBERT = T.AlbertConfig(**TEXT, embedding_size=16)
DISTILBERT = T.DistilBertConfig(vocab_size=64, dim=32, hidden_dim=48, n_layers=1, n_heads=4)
XLNET = T.XLNetConfig(vocab_size=64, d_model=32, n_layer=1, n_head=4, d_inner=48)
GPT2 = T.GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2, pad_token_id=0)
LLAMA = T.LlamaConfig(**TEXT, pad_token_id=0)
T5 = T.T5Config(
    vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0
)
BART = T.BartConfig(
    vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=40,
)  # fmt: skip
IMAGES = {**SIZES, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}
VIT, BEIT = T.ViTConfig(**IMAGES), T.BeitConfig(**IMAGES, vocab_size=50)
WAV2VEC2 = T.Wav2Vec2Config(
    **SIZES, num_attention_heads=4, conv_dim=(16, 16), conv_kernel=(3, 3), conv_stride=(2, 2),
    num_feat_extract_layers=2, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    classifier_proj_size=16, tdnn_dim=(16, 16), tdnn_kernel=(3, 3), tdnn_dilation=(1, 1),
    xvector_output_dim=16,
)  # fmt: skip
WHISPER = T.WhisperConfig(
    vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=16,
    max_source_positions=20, max_target_positions=20, pad_token_id=0, bos_token_id=1,
    eos_token_id=2, decoder_start_token_id=1, classifier_proj_size=16,
)  # fmt: skip

# (class, what was saved, its config) -> modules that are in no file
MISSING: list[tuple[Any, Any, Any, set[str]]] = [
    (T.BertForSequenceClassification, T.BertForMaskedLM, BERT, {"bert.pooler", "classifier"}),
    (T.BertForSequenceClassification, T.BertModel, BERT, {"classifier"}),
    (T.BertForMultipleChoice, T.BertForMaskedLM, BERT, {"bert.pooler", "classifier"}),
    (T.BertForNextSentencePrediction, T.BertForMaskedLM, BERT, {"bert.pooler", "cls"}),
    (T.BertForTokenClassification, T.BertForMaskedLM, BERT, {"classifier"}),
    (T.BertForQuestionAnswering, T.BertForMaskedLM, BERT, {"qa_outputs"}),
    (T.BertForPreTraining, T.BertForMaskedLM, BERT, {"bert.pooler", "cls.seq_relationship"}),
    (T.BertForMaskedLM, T.BertModel, BERT, {"cls.predictions"}),
    (T.BertModel, T.BertForMaskedLM, BERT, {"pooler"}),
    (T.RobertaForSequenceClassification, T.RobertaForMaskedLM, ROBERTA, {"classifier"}),
    (T.RobertaForMultipleChoice, T.RobertaForMaskedLM, ROBERTA, {"roberta.pooler", "classifier"}),
    (T.DebertaV2ForSequenceClassification, T.DebertaV2ForMaskedLM, DEBERTA,
     {"pooler", "classifier"}),
    (T.ElectraForSequenceClassification, T.ElectraForPreTraining, ELECTRA, {"classifier"}),
    (T.ElectraForMultipleChoice, T.ElectraForPreTraining, ELECTRA,
     {"sequence_summary", "classifier"}),
    (T.AlbertForSequenceClassification, T.AlbertForMaskedLM, ALBERT,
     {"albert.pooler", "classifier"}),
    (T.DistilBertForSequenceClassification, T.DistilBertForMaskedLM, DISTILBERT,
     {"pre_classifier", "classifier"}),
    (T.XLNetForMultipleChoice, T.XLNetLMHeadModel, XLNET, {"sequence_summary", "logits_proj"}),
    (T.GPT2DoubleHeadsModel, T.GPT2LMHeadModel, GPT2, {"multiple_choice_head"}),
    (T.GPT2ForSequenceClassification, T.GPT2LMHeadModel, GPT2, {"score"}),
    (T.LlamaForSequenceClassification, T.LlamaForCausalLM, LLAMA, {"score"}),
    (T.LlamaForCausalLM, T.LlamaModel, LLAMA, {"lm_head"}),
    (T.LlamaForCausalLM, T.LlamaForCausalLM, LLAMA, set()),
    (T.T5ForSequenceClassification, T.T5ForConditionalGeneration, T5, {"classification_head"}),
    (T.BartForSequenceClassification, T.BartForConditionalGeneration, BART,
     {"classification_head"}),
    (T.BartForQuestionAnswering, T.BartForConditionalGeneration, BART, {"qa_outputs"}),
    (T.ViTForImageClassification, T.ViTForMaskedImageModeling, VIT, {"classifier"}),
    (T.BeitForImageClassification, T.BeitForMaskedImageModeling, BEIT,
     {"beit.pooler", "classifier"}),
    (T.Wav2Vec2ForSequenceClassification, T.Wav2Vec2ForPreTraining, WAV2VEC2,
     {"projector", "classifier"}),
    (T.Wav2Vec2ForCTC, T.Wav2Vec2Model, WAV2VEC2, {"lm_head"}),
    # a list of modules; and a name that PEFT finds in the body too
    (T.Wav2Vec2ForXVector, T.Wav2Vec2Model, WAV2VEC2,
     {"projector", "tdnn.0", "tdnn.1", "feature_extractor", "wav2vec2.feature_extractor",
      "classifier", "objective"}),
]  # fmt: skip
NAMES = [f"{found.__name__}-{saved.__name__}" for found, saved, _, _ in MISSING]
# Trained whole though a file has them: the head of a task, by itself.
TRAINED_ANYWAY = {"pre_classifier", "classifier", "qa_outputs", "score", "classification_head"}


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    verbosity = T.logging.get_verbosity()
    T.logging.set_verbosity_error()
    with no_progress_bars():
        yield
    T.logging.set_verbosity(verbosity)


def save(folder: Path, saved: Any, config: Any) -> None:
    torch.manual_seed(7)
    saved(copy.deepcopy(config)).save_pretrained(folder)


def load(found: Any, folder: Path, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return found.from_pretrained(folder, **options).eval()


def inputs(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    name = model.main_input_name
    if name == "pixel_values":
        return {name: torch.randn(2, 3, 16, 16, generator=generator)}
    if name == "input_values":
        return {name: torch.randn(2, 400, generator=generator)}
    ids = torch.randint(4, 64, (2, 9), generator=generator)
    if "MultipleChoice" in type(model).__name__ or "DoubleHeads" in type(model).__name__:
        return {"input_ids": ids.view(1, 2, 9)}
    ids[:, -1] = 1 if isinstance(model, T.T5ForSequenceClassification) else 2  # ends a row
    return {"input_ids": ids}


def outputs(model: nn.Module, given: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found = model.eval()(**given).to_tuple()
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


def moved(model: PeftModel) -> PeftModel:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def whole(model: PeftModel) -> set[str]:
    names = (name for name, p in model.named_parameters() if p.requires_grad)
    held = (name.split(".modules_to_save.") for name in names if ".modules_to_save." in name)
    return {name.removeprefix("base_model.model.") for name, _ in held}


def with_factors(model: PeftModel) -> set[str]:
    names = (name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name)
    return {name.removeprefix("base_model.model.") for name in names}


def assert_same_under_another_seed(
    model: PeftModel, build: Callable[[int], Any], folder: Path
) -> None:
    given = inputs(model.get_base_model())
    model.save_pretrained(folder)
    expected = outputs(model, given)
    for seed in (0, 1):
        loaded = PeftModel.from_pretrained(build(seed), folder)
        for found, wanted in zip(outputs(loaded, given), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")  # "lm_head"
@pytest.mark.parametrize(("found", "saved", "config", "missing"), MISSING, ids=NAMES)
def test_what_the_file_lacks_is_trained_whole_and_saved(
    found: Any, saved: Any, config: Any, missing: set[str], tmp_path: Path
) -> None:
    save(tmp_path / "base", saved, config)
    model = moved(LoRA(r=2).apply(load(found, tmp_path / "base")))
    assert whole(model) == missing
    assert with_factors(model)
    assert not [
        name
        for name in with_factors(model)
        for head in missing
        if f"{name}.".startswith(f"{head}.")
    ]
    assert_same_under_another_seed(
        model, lambda seed: load(found, tmp_path / "base", seed), tmp_path / "adapter"
    )


@pytest.mark.parametrize(("found", "saved", "config", "missing"), MISSING, ids=NAMES)
def test_the_marks_on_parameters_are_the_loading_report(
    found: Any, saved: Any, config: Any, missing: set[str], tmp_path: Path
) -> None:
    """The marks are private to transformers: here it shows when a release leaves none."""
    save(tmp_path, saved, config)
    model, report = found.from_pretrained(tmp_path, output_loading_info=True)
    reported = missing_parameters(model, report["missing_keys"])
    marked = missing_parameters(model, None)
    own = {name for name, _ in model.named_parameters()}  # two modules may share a bias
    assert own.intersection(marked) == own.intersection(reported)
    assert whole_modules(model, (), marked) == whole_modules(model, (), reported)


@pytest.mark.parametrize("found", [T.BertForSequenceClassification, T.BertForMultipleChoice])
@pytest.mark.parametrize("method", [PiSSA(r=2), OLoRA(r=2)], ids=lambda m: m.name)
def test_a_start_from_the_weights_is_of_weights_that_a_file_has(
    found: Any, method: Any, tmp_path: Path
) -> None:
    save(tmp_path / "base", T.BertForMaskedLM, BERT)
    model = moved(method.apply(load(found, tmp_path / "base")))
    assert whole(model) == {"bert.pooler", "classifier"}
    assert_same_under_another_seed(
        model, lambda seed: load(found, tmp_path / "base", seed), tmp_path / "adapter"
    )


@pytest.mark.parametrize("found", [T.BertForSequenceClassification, T.BertForMultipleChoice])
@pytest.mark.parametrize("method", [Full(), HeadOnly()], ids=lambda m: m.name)
def test_methods_without_factors_train_it_too(found: Any, method: Any, tmp_path: Path) -> None:
    save(tmp_path / "base", T.BertForMaskedLM, BERT)
    model = moved(method.apply(load(found, tmp_path / "base")))
    pooler = "bert.pooler.dense" if method.name == "full" else "bert.pooler"
    assert whole(model) >= {pooler, "classifier"}
    assert (len(whole(model)) == 2) == (method.name == "head_only")
    assert_same_under_another_seed(
        model, lambda seed: load(found, tmp_path / "base", seed), tmp_path / "adapter"
    )


def test_a_copy_has_no_marks_and_what_may_be_new_is_taken_as_new(tmp_path: Path) -> None:
    save(tmp_path, T.BertForMaskedLM, BERT)
    base = load(T.BertForSequenceClassification, tmp_path)
    assert any(hasattr(parameter, FILLED) for parameter in base.parameters())
    base = copy.deepcopy(base)
    assert missing_parameters(base, None) is None
    assert whole(LoRA(r=2).apply(base)) == {"bert.pooler", "classifier"}


def test_a_copy_s_head_beside_the_words_is_taken_as_new(tmp_path: Path) -> None:
    save(tmp_path, T.BertForMaskedLM, BERT)
    model = LoRA(r=2).apply(copy.deepcopy(load(T.BertForPreTraining, tmp_path)))
    assert whole(model) == {"bert.pooler", "cls.seq_relationship"}


def test_the_loading_report_says_that_a_file_has_a_pooler(tmp_path: Path) -> None:
    save(tmp_path, T.BertModel, BERT)
    base = copy.deepcopy(load(T.BertForSequenceClassification, tmp_path))
    model = LoRA(r=2).apply(base, missing_keys=["classifier.weight", "classifier.bias"])
    assert whole(model) == {"classifier"}
    assert "bert.pooler.dense" in with_factors(model)


def test_the_words_of_a_copied_language_model_are_not_new(tmp_path: Path) -> None:
    save(tmp_path, T.LlamaForCausalLM, LLAMA)
    model = LoRA(r=2).apply(copy.deepcopy(load(T.LlamaForCausalLM, tmp_path)))
    assert whole(model) == set()


def test_a_model_that_was_never_loaded_keeps_factors_on_its_pooler() -> None:
    model = LoRA(r=2).apply(tiny_bert())
    assert whole(model) == {"classifier"}
    assert "bert.pooler.dense" in with_factors(model)


def test_a_head_of_which_a_part_is_new_is_trained_whole(tmp_path: Path) -> None:
    save(tmp_path, T.RobertaForSequenceClassification, ROBERTA)
    options = {"num_labels": 5, "ignore_mismatched_sizes": True}
    base = load(T.RobertaForSequenceClassification, tmp_path, **options)
    assert missing_parameters(base, None) == [
        "classifier.out_proj.bias",
        "classifier.out_proj.weight",
    ]
    assert whole(LoRA(r=2).apply(base)) == {"classifier"}


def test_a_layer_that_the_file_lacks_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, T.BertForMaskedLM, BERT)
    deeper = T.BertConfig(**{**TEXT, "num_hidden_layers": 3})
    base = load(T.BertForSequenceClassification, tmp_path, config=deeper)
    modules = dict(base.named_modules())
    with pytest.raises(
        MethodError, match=rf"file '{tmp_path}' .* has no bert\.encoder\.layer\.2\..* and 13 more"
    ):
        LoRA(r=2).apply(base)
    assert dict(base.named_modules()) == modules
    model = moved(LoRA(r=2, modules_to_save=["layer.2"]).apply(base))
    assert whole(model) == {"bert.encoder.layer.2", "bert.pooler", "classifier"}
    assert_same_under_another_seed(
        model,
        lambda seed: load(T.BertForSequenceClassification, tmp_path, seed, config=deeper),
        tmp_path / "adapter",
    )


def test_full_fine_tuning_holds_a_layer_that_the_file_lacks(tmp_path: Path) -> None:
    save(tmp_path, T.BertForMaskedLM, BERT)
    deeper = T.BertConfig(**{**TEXT, "num_hidden_layers": 3})
    base = load(T.BertForSequenceClassification, tmp_path, config=deeper)
    names = {name for name in whole(Full().apply(base)) if "layer.2." in name}
    assert len(names) == 8


def test_cross_attention_that_is_put_between_two_models_is_refused(tmp_path: Path) -> None:
    save(tmp_path, T.BertModel, BERT)
    both = T.EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path, tmp_path)
    with pytest.raises(MethodError, match=r"has no decoder\.bert\.encoder\..*crossattention"):
        LoRA(r=2).apply(both)


def test_a_parameter_that_no_module_could_hold_is_refused(tmp_path: Path) -> None:
    save(tmp_path, T.Wav2Vec2ForSequenceClassification, WAV2VEC2)
    options = {"use_weighted_layer_sum": True, "classifier_proj_size": 16}
    base = load(T.Wav2Vec2ForSequenceClassification, tmp_path, **options)
    with pytest.raises(MethodError, match="has no layer_weights"):
        LoRA(r=2).apply(base)


class Guest(nn.Module):
    """A model of one's own around a pretrained one."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.mine = body, nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 3))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.mine(self.body(input_ids).last_hidden_state)


def test_layers_of_one_s_own_on_a_pretrained_body(tmp_path: Path) -> None:
    save(tmp_path, T.BertModel, BERT)

    def build(seed: int) -> Guest:
        return Guest(load(T.BertModel, tmp_path, seed))

    model = moved(LoRA(r=2, target_modules=["query"]).apply(build(0)))
    assert whole(model) == {"mine"}
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(build(1), tmp_path / "adapter")
    torch.testing.assert_close(loaded.eval()(tokens(4)), model.eval()(tokens(4)))


def test_a_word_head_for_added_tokens_is_peft_s_to_save(tmp_path: Path) -> None:
    save(tmp_path, T.LlamaForCausalLM, LLAMA)
    base = load(T.LlamaForCausalLM, tmp_path)
    base.resize_token_embeddings(70, mean_resizing=False)
    assert missing_parameters(base, None) == []
    assert whole(LoRA(r=2).apply(base)) == set()


def test_a_named_module_inside_a_head_is_not_wrapped_twice() -> None:
    torch.manual_seed(0)
    base = T.RobertaForSequenceClassification(copy.deepcopy(ROBERTA))
    model = LoRA(r=2, target_modules=["query"], modules_to_save=["dense"]).apply(base)
    assert "classifier" in whole(model)
    assert not {name for name in whole(model) if name.startswith("classifier.")}
    assert "roberta.encoder.layer.0.output.dense" in whole(model)


def test_one_line_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, T.BertForMaskedLM, BERT)
    with caplog.at_level(logging.WARNING, logger="rankwright"):
        LoRA(r=2).apply(load(T.BertForSequenceClassification, tmp_path))
    assert caplog.messages == [
        "not in the model's file, so trained whole and saved with the adapter: "
        "bert.pooler, classifier"
    ]


def test_a_key_of_another_model_is_refused() -> None:
    with pytest.raises(
        MethodError, match=r"no parameter 'clasifier.bias'; did you mean classifier"
    ):
        LoRA(r=2).apply(tiny_bert(), missing_keys=["clasifier.bias"])


def test_names_of_modules() -> None:
    assert outermost(["a.b", "a", "c", "a.b.c", "ab", "c"]) == ["a", "c", "ab"]
    model = nn.ModuleDict({"first": nn.Linear(2, 2), "my_first": nn.Linear(2, 2)})
    assert matching(model, ["first"]) == ["first", "my_first"]


MADE_UP: list[tuple[Any, Any, Any]] = [
    (T.BertForMultipleChoice, T.BertModel, BERT),
    (T.GPT2DoubleHeadsModel, T.GPT2LMHeadModel, GPT2),
    (T.XLNetForSequenceClassification, T.XLNetLMHeadModel, XLNET),
    (T.BartForSequenceClassification, T.BartForConditionalGeneration, BART),
    (T.BartForConditionalGeneration, T.BartForConditionalGeneration, BART),
    (T.ViTForImageClassification, T.ViTModel, VIT),
    (T.BeitForImageClassification, T.BeitForMaskedImageModeling, BEIT),
    (T.Wav2Vec2ForSequenceClassification, T.Wav2Vec2Model, WAV2VEC2),
    (T.WhisperForAudioClassification, T.WhisperForConditionalGeneration, WHISPER),
    (T.WhisperForConditionalGeneration, T.WhisperForConditionalGeneration, WHISPER),
]


@pytest.mark.parametrize(
    ("found", "saved", "config"), MADE_UP, ids=[row[0].__name__ for row in MADE_UP]
)
def test_an_export_makes_up_a_row(found: Any, saved: Any, config: Any, tmp_path: Path) -> None:
    """Of token ids, of choices, of pixels, of sound: what the model takes."""
    save(tmp_path / "base", saved, config)
    model = moved(LoRA(r=2).apply(load(found, tmp_path / "base")))
    assert export_adapter(model, tmp_path / "out").logit_difference < 1e-5
