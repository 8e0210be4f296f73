"""What torchrun starts for test_two_processes.py: every method, and a resumed run of every sort.

Run with tests/support on PYTHONPATH: torchrun --nproc_per_node=2 two_processes.py FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from guest_layers import Guest
from method_table import BATCH, BUILDS, IN_TURN, OF_EVERY_SORT, method_named
from models import rows_for, same_bits
from quick import make_quick
from rankwright.core.method import Method
from trainers import adapter, build_trainer
from uneven import EVALUATED, TOGETHER, by_loop, evaluated, together

torch.set_num_threads(1)


def numbers(name: str, kind: str, folder: Path) -> None:
    """Train in float64 and leave the adapter for the test to compare."""
    trainer = build_trainer(
        method_named(name),
        kind,
        folder / "run",
        double=True,
        dropout=False,
        per_device_train_batch_size=BATCH // 2,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        save_file(adapter(trainer.model), folder / f"{name}-{kind}.safetensors")


def resumed(method: Method, kind: str, folder: Path) -> None:
    """Stop in the second epoch, go on, and end at the best checkpoint: with the same bits."""

    name = method.name

    def trainer(**changes: Any) -> Any:
        return build_trainer(
            method,
            kind,
            folder / f"resumed-{name}",
            per_device_train_batch_size=BATCH // 2,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            options={"eval_dataset": rows_for(BUILDS[kind](), 8, seed=3)},
            **changes,
        )

    straight = trainer()
    straight.train()
    best = straight.state.best_model_checkpoint
    assert Path(best).parent == folder / f"resumed-{name}", best
    again = trainer(adapter_seed=9)
    again.train(resume_from_checkpoint=str(folder / f"resumed-{name}" / "checkpoint-6"))
    assert same_bits(adapter(again.model), adapter(straight.model)), name
    losses = [
        [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        for run in (straight, again)
    ]
    assert losses[0] == losses[1], name


def uneven(folder: Path) -> None:
    """Two micro-batches of one row each on a process, one of which has no target."""
    for name in TOGETHER:
        trained, _ = together(name, folder / "run", 1, 2)
        if torch.distributed.get_rank() == 0:
            save_file(trained, folder / f"{name}.safetensors")


def uneven_loop(folder: Path) -> None:
    """The same of a loop of one's own, two micro-batches on each process."""
    trained = by_loop(torch.distributed.get_rank(), torch.distributed.get_world_size())
    if torch.distributed.get_rank() == 0:
        save_file(trained, folder / "a loop.safetensors")


def evaluation(folder: Path) -> None:
    """One batch, of two rows on each process."""
    losses = {name: torch.tensor(evaluated(name, folder / "run", 2)) for name in EVALUATED}
    if torch.distributed.get_rank() == 0:
        save_file(losses, folder / "evaluation.safetensors")


def main(folder: Path) -> None:
    """All of it."""
    make_quick(pytest.MonkeyPatch())
    for name, kind in IN_TURN:
        numbers(name, kind, folder)
        if name in OF_EVERY_SORT:
            resumed(method_named(name), kind, folder)
    resumed(Guest(r=2), "llama", folder)
    uneven(folder)
    uneven_loop(folder)
    evaluation(folder)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
