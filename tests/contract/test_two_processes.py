"""Two processes under torchrun give the numbers of one that sees the same global batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from method_table import IN_TURN, method_named
from trainers import adapter, build_trainer
from uneven import COUNTS, EVALUATED, TOGETHER, by_loop, evaluated
from uneven import together as one_step

WORKER = Path(__file__).resolve().parents[1] / "support" / "two_processes.py"


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two processes made; they also check resumed runs by themselves."""
    folder = tmp_path_factory.mktemp("together")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, str(WORKER), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return folder


@pytest.mark.parametrize(("name", "kind"), IN_TURN)
def test_two_processes_are_one(together: Path, name: str, kind: str, tmp_path: Path) -> None:
    alone = build_trainer(method_named(name), kind, tmp_path, double=True, dropout=False)
    alone.train()
    expected, found = adapter(alone.model), load_file(together / f"{name}-{kind}.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_processes_count_by_their_targets(together: Path, name: str, tmp_path: Path) -> None:
    expected, _ = one_step(name, tmp_path, len(COUNTS))
    found = load_file(together / f"{name}.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=key)


def test_processes_of_a_loop_count_by_their_targets(together: Path) -> None:
    found = load_file(together / "a loop.safetensors")
    for key, value in by_loop().items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=key)


def test_the_loss_of_an_evaluation_is_that_of_one_process(together: Path, tmp_path: Path) -> None:
    """The Trainer multiplies those of models that do not divide by the number of targets."""
    found = load_file(together / "evaluation.safetensors")
    for name in EVALUATED:
        assert float(found[name]) == pytest.approx(evaluated(name, tmp_path, 4), rel=1e-5), name
