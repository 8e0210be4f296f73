"""Gated LoRA layers: LoRA at gates of 1, what is saved, pruning."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from rankwright.errors import MethodError
from rankwright.layers.gated import GatedFactor, GatedLoRA, gated_factors, prune
from rankwright.optimizers import named_pairs
from rankwright.peft_layers.layers import adapted_layers

# PEFT sets fan_in_fan_out by itself and says so; a toy model has no config to read
pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set"),
    pytest.mark.filterwarnings("ignore:Could not find a config file"),
]


def linear() -> nn.Module:
    """Modules called "0" and "2.0": the one name is the end of the other."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4))
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), inner).double()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).eval().double()


TARGETS = {"linear": ["0", "2.0", "2.1"], "gpt2": ["c_attn", "c_fc"]}
BASES = {"linear": linear, "gpt2": gpt2}


def output(model: nn.Module, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        if kind == "gpt2":
            result: Tensor = model(torch.randint(20, (2, 7), generator=generator)).logits
        else:
            result = model(torch.randn(3, 6, generator=generator, dtype=torch.float64))
    return result


def gated(kind: str, init: str = "ones", **options: Any) -> PeftModel:
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS[kind], **options})
    model = get_peft_model(BASES[kind](), config, autocast_adapter_dtype=False)
    GatedLoRA(init).install(model, "default")  # type: ignore[arg-type]
    return model


def spread(model: PeftModel, closed: dict[int, list[int]]) -> None:
    """Random factors and gates; layer number -> gates that are zero."""
    generator = torch.Generator().manual_seed(2)
    layers = adapted_layers(model)
    for number, (name, factor) in enumerate(gated_factors(layers, "default").items()):
        for p in (factor.live, factor.gate, layers[name].lora_B["default"].weight):
            p.data.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        factor.gate.data[closed.get(number, [])] = 0


def test_at_gates_of_one_it_is_peft_bit_for_bit() -> None:
    model = gated("linear")
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS["linear"])
    plain = get_peft_model(linear(), config, autocast_adapter_dtype=False)
    x = torch.randn(3, 6, dtype=torch.float64)
    for module in adapted_layers(plain).values():
        module.lora_B["default"].weight.data.normal_()
    for name, module in adapted_layers(model).items():
        ours, theirs = module.lora_B["default"], plain.get_submodule(name).lora_B["default"]
        ours.load_state_dict(theirs.state_dict())
    outputs = [m(x) for m in (model, plain)]
    assert torch.equal(*outputs)
    for y in outputs:
        y.square().sum().backward()
    for name, module in adapted_layers(model).items():
        ours, theirs = module, plain.get_submodule(name)
        assert torch.equal(ours.lora_A["default"].live.grad, theirs.lora_A["default"].weight.grad)
        assert torch.equal(ours.lora_B["default"].weight.grad, theirs.lora_B["default"].weight.grad)


def test_gates_are_float32_where_the_factors_are_not() -> None:
    factor = GatedFactor(nn.Linear(3, 2, bias=False, dtype=torch.bfloat16), torch.ones(2))
    factor.gate.data -= 3e-4
    assert factor.gate.dtype == torch.float32
    assert float(factor.gate.data[0]) < 1
    assert factor.weight.dtype == torch.bfloat16


def test_normal_gates_follow_the_seed() -> None:
    first, same = (gated("linear", "normal") for _ in range(2))
    gates = [
        torch.cat([f.gate for f in gated_factors(adapted_layers(m), "default").values()])
        for m in (first, same)
    ]
    assert torch.equal(*gates)
    assert len(gates[0].unique()) == len(gates[0])


def test_a_rank_can_be_rescaled_between_row_and_gate() -> None:
    model = gated("linear")
    spread(model, {})
    before = output(model, "linear")
    for factor in gated_factors(adapted_layers(model), "default").values():
        factor.live.data[1] *= 4
        factor.gate.data[1] /= 4
    assert torch.equal(output(model, "linear"), before)


def test_a_state_dict_holds_the_product_alone() -> None:
    model = gated("linear")
    spread(model, {0: [1]})
    state = model.state_dict()
    keys = [key for key in state if "lora_A" in key]
    assert [key for key in keys if not key.endswith("lora_A.default.weight")] == []
    factors = gated_factors(adapted_layers(model), "default")
    kept = {n: (f.live.detach().clone(), f.gate.detach().clone()) for n, f in factors.items()}
    model.load_state_dict(state)  # its own: nothing moves
    assert all(torch.equal(f.live, kept[n][0]) for n, f in factors.items())
    assert all(torch.equal(f.gate, kept[n][1]) for n, f in factors.items())
    before = output(model, "linear")
    for factor in factors.values():
        factor.live.data *= 2
    model.load_state_dict(state)  # of another pair: gates of 1 on the product
    assert all((f.gate == 1).all() for f in factors.values())
    assert torch.equal(output(model, "linear"), before)


def test_a_state_dict_that_was_pruned_is_refused() -> None:
    model = gated("linear")
    state = model.state_dict()
    key = next(key for key in state if "lora_A" in key)
    state[key] = state[key][:2]
    with pytest.raises(RuntimeError, match="the adapter was pruned; load it with PeftModel"):
        model.load_state_dict(state)


def test_merge_and_unmerge() -> None:
    model = gated("linear")
    spread(model, {1: [0, 1, 2, 3]})
    expected = output(model, "linear")
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(output(model, "linear"), expected, rtol=0, atol=1e-12)
    model.unmerge_adapter()
    torch.testing.assert_close(output(model, "linear"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    "closed",
    [{}, {0: [2]}, {0: [0, 1, 2, 3], 1: [1, 3]}, {1: [0, 1, 2, 3], 2: [0]}],
    ids=["none", "one", "first layer", "second layer"],
)
def test_pruned_it_is_the_same_function_for_plain_peft_too(
    kind: str, rslora: bool, closed: dict[int, list[int]], tmp_path: Path
) -> None:
    model = gated(kind, use_rslora=rslora)
    spread(model, closed)
    before, gated_model = output(model, kind), copy.deepcopy(model)
    ranks = prune(model, "default")
    assert list(ranks.values()) == [4 - len(closed.get(i, [])) for i in range(len(ranks))]
    torch.testing.assert_close(output(model, kind), before, rtol=1e-12, atol=1e-13)
    assert not any(isinstance(module, GatedFactor) for module in model.modules())
    assert adapted_layers(model).keys() == {name for name, rank in ranks.items() if rank}

    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    sizes = {
        name: layer.in_features + layer.out_features
        for name, layer in adapted_layers(gated_model).items()
    }
    assert sum(t.numel() for t in saved.values()) == sum(ranks[n] * sizes[n] for n in ranks)
    loaded = PeftModel.from_pretrained(BASES[kind](), tmp_path, autocast_adapter_dtype=False)
    assert adapted_layers(loaded).keys() == adapted_layers(model).keys()
    torch.testing.assert_close(output(loaded, kind), before, rtol=1e-12, atol=1e-13)
    with model.disable_adapter():
        assert torch.equal(output(model, kind), output(BASES[kind](), kind))


@pytest.mark.parametrize("kind", BASES)
def test_without_an_open_gate_a_zero_pair_is_left(kind: str, tmp_path: Path) -> None:
    model = gated(kind)
    spread(model, {number: [0, 1, 2, 3] for number in range(9)})
    ranks = prune(model, "default")
    assert list(ranks.values()) == [1] + [0] * (len(ranks) - 1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(BASES[kind](), tmp_path)
    assert torch.equal(output(loaded, kind), output(BASES[kind](), kind))


def test_exclusions_that_were_there_stay(tmp_path: Path) -> None:
    model = gated("linear", exclude_modules=["1"], target_modules=["0", "2.0"])
    spread(model, {0: [0, 1, 2, 3]})
    prune(model, "default")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(linear(), tmp_path)
    assert list(adapted_layers(loaded)) == ["base_model.model.2.0"]


def test_what_has_no_linear_factors_is_refused() -> None:
    model = get_peft_model(
        nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)),
        LoraConfig(r=2, target_modules=["0", "1"]),
    )
    with pytest.raises(
        MethodError, match=r"0 is a Embedding, and gates are put on the ranks of linear"
    ):
        GatedLoRA().install(model, "default")


def test_an_optimizer_of_pairs_is_refused() -> None:
    with pytest.raises(MethodError, match="computes a factor from other parameters"):
        named_pairs(gated("linear"))


def test_gates_are_missed_where_there_are_none() -> None:
    model = get_peft_model(linear(), LoraConfig(r=2, target_modules=["0"]))
    with pytest.raises(MethodError, match=r"has no gates; take Slots\(layer=GatedLoRA\(\)\)"):
        gated_factors(adapted_layers(model), "default")
