"""The benchmark's own arithmetic; its times are not tested."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import goals, optimizers, rounds, upper_step
from benchmarks.meters import Meter, peak_bytes, saved_bytes
from benchmarks.published_rite import PublishedRite
from benchmarks.report import machine, merged, plot, tables
from benchmarks.shapes import SHAPES, Shape, llama
from benchmarks.turns import figures, take_turns
from benchmarks.variants import all_variants, floor, full, layers
from models import batch, rows_for, tiny_bert, tiny_llama
from rankwright.kernels.blocks import release


def test_saved_bytes_counts_a_storage_once_and_no_parameter() -> None:
    layer = nn.Linear(4, 3)
    x = torch.randn(5, 4, requires_grad=True)
    assert saved_bytes(layer, lambda: layer(x).sum()) == x.nbytes  # for the weight's gradient
    layer.requires_grad_(False)
    assert saved_bytes(layer, lambda: layer(x).sum()) == 0
    # z.exp() keeps its own result, the product keeps it and z
    assert saved_bytes(layer, lambda: ((z := layer(x)) * z.exp()).sum()) == 2 * 5 * 3 * 4


def test_saved_bytes_leaves_out_what_was_dropped_in_between() -> None:
    x = torch.randn(5, requires_grad=True)

    def forward() -> torch.Tensor:
        x.exp()  # its result, and with it the graph, is gone at once
        return x.square().sum()

    assert saved_bytes(nn.Identity(), forward) == x.nbytes


def test_turns_begin_with_another_call_each_time() -> None:
    order: list[int] = []
    calls = [(lambda i=i: order.append(i), lambda: None) for i in range(3)]
    turns = take_turns(calls, Meter(), rounds=2)
    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert len(turns) == 2


def test_ratios_are_taken_within_a_turn() -> None:
    turns = [[{"ms": 1.0}, {"ms": 2.0}], [{"ms": 10.0}, {"ms": 30.0}], [{"ms": 5.0}, {"ms": 20.0}]]
    assert figures(turns, 1)["ms"] == {"median": 20.0, "ratio": [2.0, 3.0, 4.0]}


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_every_variant_computes_the_base_on_its_frozen_weights(build: object) -> None:
    base = build()  # type: ignore[operator]
    inputs = batch(rows_for(base, 2))
    expected = base.eval()(**inputs).loss
    fitting = [variant for variant in all_variants() if "r=64" not in variant.name]
    for variant in fitting:
        model = variant.build(base).eval()
        torch.testing.assert_close(model(**inputs).loss, expected)
        own = {p.data_ptr() for p in base.parameters()}
        shared = sum(p.data_ptr() in own for p in model.parameters())
        assert shared == (0 if variant.by == "full" else len(own)), variant.name


def test_the_floor_gives_no_parameter_a_gradient() -> None:
    base = tiny_llama()
    inputs = batch(rows_for(base, 2))
    model = floor(base)
    model(**inputs).loss.backward()
    assert all(p.grad is None for p in model.parameters())
    assert saved_bytes(model, lambda: model(**inputs).loss) > 0
    trained = full(base)
    trained(**inputs).loss.backward()
    assert all(p.grad is not None for p in trained.parameters())


def test_bytes_kept_beside_the_floor_s() -> None:
    """Figures of docs/results/benchmark.md: exact, the same on every machine."""
    base = llama(parts=4)  # the same ratios for a quarter of r
    ids = torch.arange(512).view(2, 256)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def kept(model: nn.Module) -> int:
        return saved_bytes(model, lambda: model(**inputs).loss)

    least = kept(floor(base))
    variants = (*layers(2, 0.0), *layers(2, 0.05), *layers(16, 0.0))
    models = {variant.name: variant.build(base) for variant in variants}
    found = {name: kept(model) / least for name, model in models.items()}
    expected = {
        "LoRA r=2, PEFT": 1.29,
        "LoRA r=2": 0.84,
        "DoRA r=2, PEFT": 2.57,
        "DoRA r=2": 1.09,
        "LoRA r=2, dropout 0.05, PEFT": 2.05,
        "LoRA r=2, dropout 0.05": 0.84,
        "DoRA r=2, dropout 0.05, PEFT": 3.33,
        "DoRA r=2, dropout 0.05": 1.09,
        "LoRA r=16, PEFT": 1.34,
        "LoRA r=16": 0.89,
        "DoRA r=16, PEFT": 2.62,
        "DoRA r=16": 1.14,
    }
    assert found == pytest.approx(expected, abs=0.01)
    layers_alone = {
        "LoRA r=2": 1.29,
        "DoRA r=2": 1.54,
        "LoRA r=2, dropout 0.05": 1.29,
        "DoRA r=2, dropout 0.05": 1.54,
        "LoRA r=16": 1.34,
        "DoRA r=16": 1.58,
    }
    for name in layers_alone:
        release(models[name])
    found = {name: kept(models[name]) / least for name in layers_alone}
    assert found == pytest.approx(layers_alone, abs=0.01)


def test_peak_is_of_the_call() -> None:
    assert peak_bytes(lambda: torch.ones(40 << 20).sum()) < 400 << 20


@pytest.mark.parametrize("builds", [optimizers.OPTIMIZERS, optimizers.FULL])
def test_every_optimizer_takes_its_turn(monkeypatch: pytest.MonkeyPatch, builds: Any) -> None:
    shape = optimizers.Shape("two small modules", [(32, 48), (48, 32)])
    monkeypatch.setitem(optimizers.SHAPES, "few", shape)
    found = optimizers.measure(shape, builds, rounds=1, meter=Meter())
    kept = {row["name"]: row["state_bytes"] for row in found}
    assert list(kept) == list(builds)
    numbers = 2 * optimizers.R * (32 + 48)
    assert kept[optimizers.FLOOR] == 4 * (2 * numbers + 4)  # two moments, and a step a factor
    text = optimizers.tables({"few": found})
    assert text.count("\n| ") == len(builds) + 2
    assert "### two small modules, r = 16" in text


def test_what_is_compared_with_moves_as_ours_does() -> None:
    """Pair by pair with QR and batched are the same steps, but for the rounding of float32."""
    shape = optimizers.Shape("two small modules", [(32, 48), (48, 32)])
    ours, theirs = (optimizers.adapter(shape) for _ in range(2))
    for optimizer in (optimizers.lora_rite()(ours), PublishedRite(theirs, optimizers.LR)):
        optimizer.step()
        optimizer.step()
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        for factor, start in zip((*one, *other), (*other, *one), strict=True):
            torch.testing.assert_close(factor, start, rtol=1e-4, atol=1e-7)


def test_steps_and_rounds_of_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", Shape("tiny", tiny_bert, 4, 8))
    names = ["LoRA r=1", "a third, blocks"]
    monkeypatch.setattr(rounds, "METHODS", {name: rounds.METHODS[name] for name in names})
    names = ["DoRA", "BiDoRA, one upper step in four", "BiDoRA, difference on a quarter"]
    _, _, *lines, _, _, _ = upper_step.measure("tiny", 2, names)
    assert [line.split(" | ")[1] for line in lines] == ["1.00", "1.50", "2.50"]
    assert lines[0].startswith("| DoRA | 1.00 | 1.00 | 1.00-1.00 |")
    chosen = [goal for goal in goals.gates() + goals.ranks() if goal.name.startswith("DiffoRA,")]
    _, _, *lines, _, _, _ = goals.measure("tiny", chosen, rounds=2)
    assert [line.split(" | ")[0] for line in lines] == [f"| {goal.name}" for goal in chosen]
    _, _, lora, blocks, *_ = rounds.measure("tiny", rounds=2)
    assert lora.endswith("|  |")
    assert blocks.endswith("% |")


def test_report_has_a_line_for_every_row() -> None:
    time = {"turns": 9, "ms": {"median": 2.0, "ratio": [0.9, 1.0, 1.1]}}
    row = {"shape": "llama", "by": "floor", "saved_bytes": 1 << 20, "peak_bytes": None, **time}
    rows = [{**row, "name": "floor"}, {**row, "name": "LoRA <8>", "by": "peft"}]
    steps = [{"shape": "llama", "name": "dora", "passes": 1.0, **time}]
    text = tables({"layers": rows, "methods": steps})
    assert "| LoRA <8> | **1.00** | 0.90-1.10 | 2 | 1.000 | 1.0 |" in text
    assert "| dora | **1.00** |" in text
    assert "forward and backward, 9 turns" in text
    assert "LoRA &lt;8&gt;" in plot(rows)


def test_other_tables_that_were_measured_on_such_a_machine_stay() -> None:
    llama = [{"shape": "llama", "n": 1}]
    old = {"machine": machine(), "layers": [*llama, {"shape": "minilm"}], "methods": llama}
    found = {"layers": [{"shape": "llama", "n": 2}], "methods": []}
    expected = [{"shape": "minilm"}, {"shape": "llama", "n": 2}]
    assert merged(old, found) == {"layers": expected, "methods": llama}
    assert merged({**old, "machine": {"threads": 99}}, found) == found
    assert merged({}, found) == found
