"""Which rows a step sees."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler
from transformers import TrainerCallback

from method_table import method_named
from rankwright.core.batch import MicroBatch
from rankwright.core.loop import Loop
from rankwright.errors import MethodError
from rankwright.training.sampling import PhaseSampler, draw_rows
from trainers import base_model, build_trainer

ROWS, PER_STEP, STEPS = 22, 4, 24


class Owner(Loop):
    """A loop that owns its rows, so that the bilevel procedure divides them."""

    def train_rows(self) -> int:
        return ROWS

    def held_out(self, index: int) -> list[MicroBatch]:
        raise NotImplementedError


def bilevel_run(seed: int = 0) -> Owner:
    method = method_named("bidora", val_fraction=0.3)
    return Owner(method.apply(base_model("bert")), method, total_steps=STEPS, seed=seed)


def sampler(seed: int = 0, per_step: int = PER_STEP) -> PhaseSampler:
    return PhaseSampler(bilevel_run(seed), ROWS, per_step)


def test_rows_are_a_function_of_seed_and_step() -> None:
    first, second, other = sampler(), sampler(), sampler(seed=1)
    torch.rand(3)
    forwards = [first.rows_of(step) for step in range(STEPS)]
    backwards = [second.rows_of(step) for step in reversed(range(STEPS))][::-1]
    assert forwards == backwards
    assert forwards != [other.rows_of(step) for step in range(STEPS)]


def test_search_and_held_out_rows_are_disjoint_and_retraining_sees_all() -> None:
    run = bilevel_run()
    found = PhaseSampler(run, ROWS, PER_STEP)
    held_out = set(run.procedure.held_out_rows())
    searched = {row for step in range(STEPS // 2) for row in found.rows_of(step)}
    retrained = {row for step in range(STEPS // 2, STEPS) for row in found.rows_of(step)}
    assert len(held_out) == round(0.3 * ROWS)
    assert searched | held_out == set(range(ROWS))
    assert not searched & held_out
    assert retrained == set(range(ROWS))


def test_no_row_is_seen_a_second_time_before_all_were_seen_once() -> None:
    run = bilevel_run()
    found = PhaseSampler(run, ROWS, PER_STEP)
    allowed = run.procedure.rows(0)
    assert allowed is not None
    seen: Counter[int] = Counter()
    for step in range(STEPS // 2):
        for row in found.rows_of(step):
            seen[row] += 1
            assert max(seen.values()) - min(seen[row] for row in allowed) <= 1
    assert sum(seen.values()) == STEPS // 2 * PER_STEP


def test_an_epoch_is_whole_steps_that_hold_all_rows() -> None:
    found = sampler()
    assert len(found) == 24  # 6 steps of 4 hold 22 rows
    for epoch in range(3):
        found.set_epoch(epoch)
        steps = range(6 * epoch, 6 * epoch + 6)
        assert list(found) == [row for step in steps for row in found.rows_of(step)]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_steps_stay_whole_over_processes_and_micro_batches(
    processes: int, accumulation: int
) -> None:
    per_device = 8 // processes // accumulation
    expected = [sampler(per_step=8).rows_of(step) for step in range(3)]
    shards = [
        list(
            BatchSamplerShard(
                BatchSampler(sampler(per_step=8), per_device, drop_last=False), processes, index
            )
        )
        for index in range(processes)
    ]
    for step, rows in enumerate(expected):
        micro = slice(step * accumulation, (step + 1) * accumulation)
        taken = [row for shard in shards for batch in shard[micro] for row in batch]
        assert sorted(taken) == sorted(rows)


def rows_seen(name: str, folder: Path, **changes: Any) -> list[list[list[int]]]:
    """The token ids of every step of a run of two epochs, row by row."""
    seen: list[list[list[int]]] = []

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            batches = trainer.run.micro_batches
            seen.append([row for b in batches for row in b.inputs["input_ids"].tolist()])

    trainer = build_trainer(method_named(name, **changes), "bert", folder, callbacks=[Watch()])
    trainer.train()
    return seen


@pytest.mark.parametrize("name", ["full", "xgblora", "flat_lora", "pissa"])
def test_every_method_sees_the_same_rows_in_the_same_order(name: str, tmp_path: Path) -> None:
    changes = {"lora_dropout": 0.1} if name == "pissa" else {}
    assert rows_seen(name, tmp_path, **changes) == rows_seen("lora", tmp_path)


def test_a_method_that_holds_rows_out_sees_the_others_in_that_order(tmp_path: Path) -> None:
    epoch = [row for step in rows_seen("lora", tmp_path)[:4] for row in step]
    steps = rows_seen("bidora", tmp_path)
    search, retraining = (list(itertools.chain(*part)) for part in (steps[:4], steps[4:]))
    assert retraining == epoch
    first = search[:12]  # a quarter of the 16 rows is held out
    assert first == [row for row in epoch if row in first]
    assert len({tuple(row) for row in first}) == 12


def test_a_stream_is_a_chain_of_whole_shuffles() -> None:
    run, rows = bilevel_run(), [3, 5, 8, 13, 21]
    stream = draw_rows(run, rows, 0, 15, "key")
    shuffles = [stream[start : start + 5] for start in (0, 5, 10)]
    assert all(sorted(shuffle) == rows for shuffle in shuffles)
    assert len({tuple(shuffle) for shuffle in shuffles}) > 1
    pieces = [draw_rows(run, rows, start, 3, "key") for start in range(0, 15, 3)]
    assert [row for piece in pieces for row in piece] == stream
    assert draw_rows(run, rows, 0, 15, "other") != stream


def test_no_row_at_all_is_an_error() -> None:
    with pytest.raises(MethodError, match="no row to draw from for 'held-out'"):
        draw_rows(bilevel_run(), [], 0, 1, "held-out")
