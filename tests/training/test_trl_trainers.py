"""Every trainer of TRL takes a method, or says why not."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from rankwright.core.method import Method
from rankwright.errors import MethodError
from rankwright.methods import BiDoRA, LoRA, OLoRA
from rankwright.penalties.outputs import Outputs
from rankwright.training import with_method
from rankwright.training.compat import TRL_METRICS
from trainers import adapter
from trl_table import PAIRS, TABLE, WORDS, arguments, configuration, trainer_class

# TRL warns of what is experimental, and of what it is going to rename
pytestmark = pytest.mark.filterwarnings("ignore")

# names of the same classes under which TRL has promoted them, or a DPOTrainer with a callback
ALSO = {"bema_for_ref_model.DPOTrainer", "distillation.DistillationTrainer", "kto.KTOTrainer"}

LORA = LoRA(r=2, lora_alpha=4)
BIDORA = BiDoRA(r=2, lora_alpha=4, retrain=False, val_fraction=0.25)
TAKEN = [name for name, row in TABLE.items() if row.every is None]
TAKEN_BY_BIDORA = [name for name in TAKEN if TABLE[name].bidora is None]


def build(
    name: str, method: Method, folder: Path, options: dict[str, Any] | None = None, **changes: Any
) -> Any:
    """A trainer of TRL with a method."""
    model = method.apply(TABLE[name].model(), seed=3)
    values = {**arguments(name, folder), **(options or {})}
    trainer = with_method(trainer_class(name))(
        model, args=configuration(name, folder, **changes), method=method, **values
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def check_step(trainer: Any) -> None:
    """One step moves the adapter."""
    before = adapter(trainer.model)
    trainer.train()
    after = adapter(trainer.model)
    assert trainer.state.global_step == 1
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert all(torch.isfinite(value).all() for value in after.values())


def test_the_table_has_every_trainer() -> None:
    exported = {name for name in trl._import_structure["trainer"] if name.endswith("Trainer")}
    experimental = set()
    for module in pkgutil.iter_modules([str(Path(trl.__file__).with_name("experimental"))]):
        if module.ispkg:
            package = importlib.import_module(f"trl.experimental.{module.name}")
            public = [name for name in vars(package) if not name.startswith("_")]
            found = {name for name in public if name.endswith("Trainer")}
            experimental |= {f"{module.name}.{name}" for name in found}
    assert exported == {name for name, row in TABLE.items() if not row.module}
    listed = {f"{row.module}.{name}" for name, row in TABLE.items() if row.module}
    assert experimental == listed | ALSO


@pytest.mark.parametrize("name", TAKEN)
def test_lora_trains(name: str, tmp_path: Path) -> None:
    check_step(build(name, LORA, tmp_path))


@pytest.mark.parametrize("name", TAKEN_BY_BIDORA)
def test_bidora_trains(name: str, tmp_path: Path) -> None:
    trainer = build(name, BIDORA, tmp_path)
    check_step(trainer)
    assert trainer.cost().passes == 3
    assert trainer.run.metrics["hypergradient_norm"] > 0


@pytest.mark.parametrize("name", [*TAKEN_BY_BIDORA, "KTOTrainer"])
def test_held_out_rows_are_prepared_as_the_others_are(name: str, tmp_path: Path) -> None:
    rows = Dataset.from_list(TABLE[name].rows[::-1])
    trainer = build(name, BIDORA, tmp_path, {"held_out_dataset": rows})
    assert trainer.eval_dataset is None
    check_step(trainer)
    assert trainer.run.metrics["hypergradient_norm"] > 0


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", ["SFTTrainer", "DPOTrainer"])
def test_held_out_rows_beside_those_of_an_evaluation(
    name: str, several: bool, tmp_path: Path
) -> None:
    rows = Dataset.from_list(TABLE[name].rows)
    own = {"one": rows.select([0]), "two": rows.select([1, 2])} if several else rows.select([0])
    options = {"held_out_dataset": rows, "eval_dataset": own}
    trainer = build(name, BIDORA, tmp_path, options)
    check_step(trainer)
    found = trainer.eval_dataset
    assert {k: len(v) for k, v in found.items()} == {"one": 1, "two": 2} if several else len(found)
    assert trainer.evaluate()["eval_one_loss" if several else "eval_loss"] > 0


@pytest.mark.parametrize("name", [name for name in TAKEN if name not in TAKEN_BY_BIDORA])
def test_bidora_is_refused_where_rows_have_no_loss(name: str, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=(TABLE[name].bidora or "").format(name=name)):
        build(name, BIDORA, tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("KTOTrainer", {"loss_type": "apo_zero_unpaired", "train_sampling_strategy": "random"}),
        ("GKDTrainer", {"lmbda": 0.0}),
    ],
)
def test_bidora_trains_where_the_arguments_let_it(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    check_step(build(name, BIDORA, tmp_path, **changes))


@pytest.mark.parametrize("name", [name for name in TABLE if name not in TAKEN])
@pytest.mark.parametrize("method", [LORA, BIDORA], ids=["lora", "bidora"])
def test_trainers_that_take_no_method(name: str, method: Method) -> None:
    with pytest.raises(MethodError, match=(TABLE[name].every or "").format(name=name)):
        with_method(trainer_class(name))(TABLE[name].model(), method=method)


def test_an_adapter_that_cannot_be_copied_trains_without_a_reference(tmp_path: Path) -> None:
    method = OLoRA(r=2, lora_alpha=4)
    with pytest.raises(MethodError, match=r"beta is 0\.1, .*set beta=0"):
        build("GRPOTrainer", method, tmp_path, beta=0.1)
    with pytest.raises(MethodError, match="use GRPOTrainer with beta=0"):
        build("RLOOTrainer", method, tmp_path, beta=0.0)
    check_step(build("GRPOTrainer", method, tmp_path, beta=0.0))


def test_a_loss_that_a_penalty_does_not_see_is_refused(tmp_path: Path) -> None:
    trainer = build("OnlineDPOTrainer", LORA.with_parts(penalty=Outputs()), tmp_path)
    with pytest.raises(MethodError, match="OnlineDPOTrainer does not compute its loss in compute"):
        trainer.train()


class Measured(TrainerCallback):
    """The metrics of the trainer at the end of a step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.values: dict[str, int] = {}
        self.tokens = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        kept = getattr(self.trainer, "_metrics", None) or self.trainer._stored_metrics
        self.values = {key: len(values) for key, values in kept["train"].items()}
        self.tokens = getattr(self.trainer, "_total_train_tokens", 0)


@pytest.mark.parametrize("name", ["SFTTrainer", "DPOTrainer", "RewardTrainer", "CPOTrainer"])
def test_what_the_trainer_measures_is_of_its_own_steps(name: str, tmp_path: Path) -> None:
    """Neither of held-out batches nor of batches that are evaluated again."""
    seen = []
    for method in (LORA, BIDORA):
        trainer = build(name, method, tmp_path)
        assert any(hasattr(trainer, metric) for metric in TRL_METRICS)
        measured = Measured(trainer)
        trainer.add_callback(measured)
        trainer.train()
        seen.append(measured)
    plain, searching = seen
    assert set(plain.values.values()) == {1}
    assert searching.values == plain.values
    assert searching.tokens == plain.tokens


UNEVEN: dict[str, list[dict[str, Any]]] = {
    "SFTTrainer": [
        {"prompt": WORDS[n], "completion": " ".join(["", *WORDS[n : n + length]])}
        for n, length in enumerate((1, 6, 3))
    ],
    "DPOTrainer": PAIRS[:3],
    "RewardTrainer": PAIRS[:3],
    "CPOTrainer": PAIRS[:3],
}


@pytest.mark.parametrize("name", UNEVEN)
def test_micro_batches_count_by_their_targets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a loss by rows; the tokens that are scored of completions of unlike length."""
    monkeypatch.setitem(TABLE, name, replace(TABLE[name], rows=UNEVEN[name]))
    found = []
    for size, accumulation in ((3, 1), (2, 2), (1, 3)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer = build(name, LORA, tmp_path, optim="sgd", learning_rate=1.0, **sizes)
        trainer.train()
        found.append((adapter(trainer.model), trainer.state.log_history[0]))
    for weights, log in found[1:]:
        assert log["loss"] == pytest.approx(found[0][1]["loss"], rel=1e-5)
        for key, value in found[0][0].items():
            torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-6, msg=key)
