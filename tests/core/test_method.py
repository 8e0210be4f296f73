import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from models import batch, classification_rows, same_bits, tiny_bart, tiny_bert, tiny_llama, tokens
from rankwright.core.method_registry import available_methods, get_method, register_method
from rankwright.core.slots import Slots
from rankwright.errors import MethodError
from rankwright.methods import DoRA, LoRA, SoRA
from rankwright.peft_layers.compat import CompatibilityError, check
from rankwright.peft_layers.layers import adapted_layers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 0}, r"LoRA\.r = 0: expected an integer of at least 1"),
        ({"r": 2.5}, r"LoRA\.r = 2\.5: expected an integer$"),
        ({"r": "8"}, r"LoRA\.r = '8': expected an integer$"),
        ({"lora_alpha": 0}, r"LoRA\.lora_alpha = 0: expected a number above 0"),
        ({"lora_dropout": 1.0}, r"LoRA\.lora_dropout = 1\.0: expected a probability"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\] = 0"),
        (
            {"rank_pattern": {"q_proj": 2.5}},
            r"rank_pattern = \{'q_proj': 2\.5\}: expected a mapping from a text to an integer$",
        ),
        ({"alpha_pattern": {"q_proj": -1}}, r"alpha_pattern\['q_proj'\] = -1"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(MethodError, match=message):
        LoRA(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": ["nope"]}, r"target_modules=\['nope'\].*q_proj"),
        ({"rank_pattern": {"nope": 2}}, r"rank_pattern key 'nope' matches no adapted module"),
        ({"alpha_pattern": {"proj": 2}}, r"alpha_pattern key 'proj' matches no adapted module"),
        ({"modules_to_save": ["lm_heat"]}, r"no module's name ends in 'lm_heat'; .*mean lm_head"),
        ({"r": 17}, r"rank 17 is larger than the layer .*k_proj \(16 x 32\).*r <= 16"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_training(fields, message):
    with pytest.raises(MethodError, match=message):
        LoRA(**fields).apply(tiny_llama())


@pytest.mark.parametrize(
    "method",
    [
        LoRA(r=2, rank_pattern={"nope": 2}),
        LoRA(r=4096),
        LoRA(r=2, target_modules=["query", "dropout"]),  # PEFT stops in the middle
        SoRA(r=2, target_modules=["query", "word_embeddings"]),
        DoRA(r=4096),
    ],
)
def test_a_model_that_was_refused_is_as_it_was(method):
    model = tiny_bert()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    parameters["bert.pooler.dense.bias"].requires_grad_(False)
    with pytest.raises(MethodError):
        method.apply(model)
    assert dict(model.named_modules()) == modules
    assert all(p is parameters[name] for name, p in model.named_parameters())
    frozen = [name for name, p in parameters.items() if not p.requires_grad]
    assert frozen == ["bert.pooler.dense.bias"]
    LoRA(r=2).apply(model)


def test_experts_are_put_back_too():
    """PEFT wraps their two weights in two layers, one in the other, and DoRA refuses them."""
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    model = MixtralForCausalLM(config)
    modules = dict(model.named_modules())
    with pytest.raises(MethodError, match=r'the attention modules.*\["q_proj", "k_proj"'):
        DoRA(r=2).apply(model)
    assert dict(model.named_modules()) == modules
    DoRA(r=2, target_modules=["q_proj"]).apply(model)


def test_an_anchored_pattern_names_one_module():
    one = "bert.encoder.layer.0.attention.self.query"
    model = LoRA(r=2, rank_pattern={f"^{one}": 4}, alpha_pattern={f"^{one}": 8}).apply(tiny_bert())
    ranks = {name: layer.r["default"] for name, layer in adapted_layers(model).items()}
    assert [name for name, rank in ranks.items() if rank == 4] == [f"base_model.model.{one}"]


def test_a_second_adapter_is_refused():
    model = LoRA().apply(tiny_bert())
    with pytest.raises(MethodError, match="already carries an adapter"):
        LoRA().apply(model)


def test_apply_is_a_function_of_its_seed():
    first, second, other = (LoRA().apply(tiny_bert(), seed=seed).state_dict() for seed in (5, 5, 6))
    assert same_bits(first, second)
    assert not same_bits(first, other)


def test_apply_does_not_draw_from_the_global_generator():
    model = tiny_bert()
    before = torch.get_rng_state()
    LoRA().apply(model)
    assert torch.equal(before, torch.get_rng_state())


def test_the_classification_head_is_trained_and_saved():
    model = LoRA().apply(tiny_bert())
    assert any(p.requires_grad and "classifier" in n for n, p in model.named_parameters())


def tiny_distilbert() -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=64, dim=32, hidden_dim=48, n_layers=1, n_heads=4)
    return DistilBertForSequenceClassification(config)


def tiny_xlnet() -> XLNetForSequenceClassification:
    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=64, d_model=32, n_layer=1, n_head=4, d_inner=48)
    return XLNetForSequenceClassification(config)


def tiny_questions() -> BertForQuestionAnswering:
    torch.manual_seed(0)
    return BertForQuestionAnswering(tiny_bert().config)


@pytest.mark.parametrize(
    ("build", "heads"),
    [
        (tiny_distilbert, {"pre_classifier", "classifier"}),
        (tiny_questions, {"qa_outputs"}),
        (tiny_bart, {"classification_head"}),
        (tiny_xlnet, {"sequence_summary", "logits_proj"}),
    ],
)
def test_heads_of_other_names_are_trained_whole(tmp_path, build, heads):
    ids = tokens(4).clamp(min=3)
    ids[:, -1] = 2  # where BART reads its class
    base = build().eval()
    expected = base(input_ids=ids)[0]
    model = LoRA(r=2).apply(base).eval()
    assert torch.equal(model(input_ids=ids)[0], expected)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    whole = {name.split(".")[2] for name in trained if ".modules_to_save." in name}
    factors = {name.split(".")[2] for name in trained if "lora_" in name}
    assert whole == heads
    assert not factors & heads
    with torch.no_grad():
        for name in trained:
            model.get_parameter(name).add_(0.1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(), tmp_path).eval()
    outputs = loaded(input_ids=ids)[0], model(input_ids=ids)[0]
    torch.testing.assert_close(*outputs)
    assert not torch.allclose(outputs[0], expected)


def test_a_head_that_is_a_target_too_is_refused_in_one_message():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.my_first = nn.Linear(4, 4), nn.Linear(4, 4)

    with pytest.raises(MethodError, match=r"lora cannot be applied to Model.*modules_to_save"):
        LoRA(r=2, target_modules=["my_first"], modules_to_save=["first"]).apply(Model())


def test_the_largest_rank_of_a_convolution_counts_its_kernel():
    LoRA(r=8, target_modules=["0"]).apply(nn.Sequential(nn.Conv2d(3, 32, 4)))
    with pytest.raises(MethodError, match=r"\(32 x 27\); choose r <= 27"):
        LoRA(r=28, target_modules=["0"]).apply(nn.Sequential(nn.Conv2d(3, 32, 3)))


def test_fresh_adapter_is_the_base_bit_for_bit():
    inputs = batch(classification_rows(4))
    base = tiny_bert().eval()
    expected = base(**inputs).logits
    assert torch.equal(LoRA().apply(base).eval()(**inputs).logits, expected)


def test_slots_filled_by_default_are_none():
    assert Slots().filled() == []


def test_registry_knows_names_and_paths():
    assert get_method("lora") is LoRA
    assert available_methods()["lora"] is LoRA
    assert get_method("rankwright.methods.lora:LoRA") is LoRA
    with pytest.raises(MethodError, match="unknown method 'lara'; expected one of"):
        get_method("lara")


def test_a_taken_name_is_refused():
    class Impostor(LoRA):
        pass

    with pytest.raises(MethodError, match="'lora' is taken by LoRA"):
        register_method(Impostor)


def test_a_missing_private_name_is_reported_with_version():
    with pytest.raises(CompatibilityError, match=r"peft 0\.\d+.* has no peft:NoSuchThing"):
        check(["peft:NoSuchThing"])


def test_attention_that_would_have_its_base_written_is_refused():
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=8)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(MethodError, match=r"self_attn is a torch.nn.MultiheadAttention.*drifts"):
        LoRA(r=2, target_modules=["self_attn"]).apply(model)
    assert same_bits(before, dict(model.named_parameters()))
