"""Checkpoints store all tensors that a layer part adds to the layers."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import bilevel_toy as toy
from guest_layers import KINDS, Guest
from method_table import METHODS, method_named
from models import tiny_llama
from rankwright.core.loop import Loop
from rankwright.errors import MethodError
from rankwright.layers.gated import GatedLoRA
from rankwright.methods import LoRA, SoRA
from rankwright.peft_layers.layer_state import layer_state, load_layer_state
from rankwright.peft_layers.layers import adapted_layers
from rankwright.training.checkpoint import load_state, save_state
from rankwright.training.refusals import check_layer_state
from trainers import build_trainer


def run_of(method: Any, seed: int = 0, dtype: torch.dtype = torch.float64) -> Loop:
    """A run whose B is not zero, so that all of A's parts have a gradient."""
    model = method.apply(toy.toy().to(dtype), seed=seed)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B["default"].weight.normal_(generator=draw)
    return Loop(model, method, total_steps=6, lr=0.05, loss=toy.cross_entropy)


def everything(model: nn.Module) -> dict[str, Tensor]:
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


def assert_same(left: nn.Module, right: nn.Module) -> None:
    found, expected = everything(left), everything(right)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "method",
    [
        *(Guest(kind=kind, **toy.FIELDS) for kind in KINDS),
        LoRA(**toy.FIELDS).with_parts(layer=GatedLoRA("normal")),
        SoRA(xi=0.01, **{**toy.FIELDS, "r": 4}),
    ],
    ids=lambda method: getattr(method, "kind", method.label),
)
def test_a_resumed_run_has_the_same_bits(method: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    straight, resumed = run_of(method, dtype=dtype), run_of(method, seed=1, dtype=dtype)
    for step in range(3):
        straight.train_step(toy.batch(step))
    state = copy.deepcopy(straight.state_dict())
    save_state({"layers": state["layers"]}, tmp_path)  # as the Trainer's checkpoints do
    resumed.load_state_dict({**state, **load_state(tmp_path)})
    assert_same(resumed.model, straight.model)
    for step in range(3, 6):
        assert straight.train_step(toy.batch(step)) == resumed.train_step(toy.batch(step))
    assert_same(resumed.model, straight.model)


@pytest.mark.parametrize("kind", KINDS)
def test_under_the_trainer_too(kind: str, tmp_path: Path) -> None:
    method = Guest(r=2, kind=kind)
    saving = {"save_strategy": "steps", "save_steps": 2}
    straight = build_trainer(method, "llama", tmp_path, **saving)
    straight.train()
    again = build_trainer(method, "llama", tmp_path, adapter_seed=9)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same(again.model, straight.model)


def test_the_best_checkpoint_is_loaded_with_it(tmp_path: Path) -> None:
    method, options = Guest(r=2), {"lr_scheduler_type": "constant"}
    short = build_trainer(method, "llama", tmp_path / "short", max_steps=2, **options)
    short.train()
    best = build_trainer(
        method,
        "llama",
        tmp_path / "best",
        options={"eval_dataset": short.train_dataset},
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # so that it is the first one
        **options,
    )
    best.train()
    assert Path(best.state.best_model_checkpoint).name == "checkpoint-2"
    assert_same(best.model, short.model)


GATED = ("adalora", "autolora", "beamlora", "bilora", "diffora", "dora_dynamic", "sora")


@pytest.mark.parametrize("name", METHODS)
def test_only_gates_have_any(name: str) -> None:
    """The adapter's file, and what the procedure keeps, say all of the other methods' layers."""
    layers = adapted_layers(method_named(name).apply(tiny_llama()))
    ends = {key.rpartition(".")[2] for key in layer_state(layers, "default")}
    assert ends == ({"live", "gate"} if name in GATED else set())


def test_another_adapter_beside_it_is_not_this_ones() -> None:
    model = LoRA(**toy.FIELDS).with_parts(layer=GatedLoRA()).apply(toy.toy())
    model.add_adapter("other", LoraConfig(r=2, target_modules=["l0", "l1"]))
    names = layer_state(adapted_layers(model), "default")
    assert len(names) == 4
    assert [name for name in names if "default" not in name] == []
    assert layer_state(adapted_layers(model), "other") == {}


def test_a_checkpoint_without_it_is_refused_by_name() -> None:
    run = run_of(SoRA(**toy.FIELDS))
    state = run.state_dict()
    state.pop("layers")  # as it was before layers kept their state
    with pytest.raises(
        MethodError,
        match=r"cannot be resumed: base_model.model.l0.lora_A.default.live is not there in it and "
        r"of shape \(2, 6\) in this run; another version of rankwright wrote it",
    ):
        run_of(SoRA(**toy.FIELDS)).load_state_dict(state)


def test_state_of_another_shape_or_layer_is_refused() -> None:
    two, three = (run_of(SoRA(**{**toy.FIELDS, "r": r})) for r in (2, 3))
    with pytest.raises(MethodError, match=r"is of shape \(3, 6\) in it and of shape \(2, 6\)"):
        load_layer_state(two.layers, "default", layer_state(three.layers, "default"))
    plain = run_of(LoRA(**toy.FIELDS))
    with pytest.raises(MethodError, match=r"l0.lora_A.default.live is of shape .* not there in"):
        load_layer_state(plain.layers, "default", layer_state(two.layers, "default"))


@pytest.mark.parametrize("setting", [{"deepspeed": "zero3.json"}, {"fsdp": ["full_shard"]}])
def test_what_shards_it_is_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    args: Any = SimpleNamespace(**{"deepspeed": None, "fsdp": [], **setting})
    plain, guest = (build_trainer(m, "llama", tmp_path).run for m in (LoRA(r=2), Guest(r=2)))
    check_layer_state(args, plain)
    with pytest.raises(
        MethodError, match=r"guest keeps .*lora_A\.default\.live beside the adapter"
    ):
        check_layer_state(args, guest)
