"""The mixin that writes a trainer's checkpoints atomically, and resumes the runs they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors import SafetensorError
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from rankwright.core.method import Method
from rankwright.errors import MethodError, TrainingError
from rankwright.peft_layers.adapter_file import rename_magnitudes
from rankwright.training import checkpoint
from rankwright.training.cost import CostMeter
from rankwright.training.failures import name_newest_checkpoint
from rankwright.training.manifest import MANIFEST, load_manifest
from rankwright.training.run import TrainerRun
from rankwright.training.totals import Totals

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class CheckpointMixin(_Base):
    """The part of `MethodMixin` that writes checkpoints and resumes from them."""

    run: TrainerRun
    method: Method
    _cost: CostMeter
    _totals: Totals
    _staging: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder, run = Path(output_dir or self.args.output_dir), self.run
            rename_magnitudes(folder)
            run.slots.export.save_side_files(run.model, run.adapter_name, folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(super()._get_output_dir(trial))
        try:
            self._save_complete(folder, model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch raises RuntimeError
            raise TrainingError(
                f"the checkpoint of step {self.state.global_step} cannot be written to {folder}: "
                f"{error}; {name_newest_checkpoint(self)}. {checkpoint.advise_on_writing(error)}"
            ) from error
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )

    def _save_complete(self, folder: Path, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint under a temporary name, add the run's state, and rename it."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with checkpoint.staging(folder, self.state.global_step) as temporary:
            self._staging = temporary
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self.accelerator.wait_for_everyone()
            best = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            if self.state.best_global_step and (best.exists() or best.name == name):
                # the Trainer has set the temporary path
                self.state.best_model_checkpoint = str(best)
            totals = self._totals.state_dict()  # collective: every process calls it
            if self.args.should_save:
                self._add_state(temporary / name, totals)
                checkpoint.publish(temporary / name, folder / name)
            self.accelerator.wait_for_everyone()

    def _add_state(self, written: Path, totals: dict[str, Any]) -> None:
        """Add the run's state to a checkpoint under its temporary name, and then its manifest."""
        self.state.save_to_json(str(written / "trainer_state.json"))
        state = {
            **self.run.state_dict(),
            "cost": self._cost.state_dict(),
            "totals": totals,
        }
        checkpoint.save_state(state, written)
        checkpoint.write_manifest(
            written,
            step=self.state.global_step,
            method=identify_method(self.method),
            optimizer=_optimizer_name(self.run.optimizer),
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # The procedure first: it may have to rebuild layers before their weights are loaded.
        folder = Path(resume_from_checkpoint)
        with checkpoint.explain_read_errors(folder):
            state = checkpoint.load_state(folder)
            self.run.load_state_dict(state)
            self._cost.load_state_dict(state["cost"])
            self._totals.load_state_dict(state.get("totals"))
        try:
            with checkpoint.explain_read_errors(folder, passing=KeyError):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
        except KeyError as error:  # raised for a module that is trained in full
            raise MethodError(
                f"{resume_from_checkpoint} has no {error.args[0]}, which this run trains: the "
                "checkpoint belongs to another model, or to a version of rankwright that trained "
                "other modules. Start a new run, or resume with the version that started this one"
            ) from error

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        with checkpoint.explain_read_errors(Path(folder or ""), "optimizer.pt or scheduler.pt"):
            if folder is not None:
                self._check_same_optimizer(Path(folder))
            super()._load_optimizer_and_scheduler(folder)

    def _load_rng_state(self, folder: str | None) -> None:
        with checkpoint.explain_read_errors(Path(folder or ""), "rng_state.pth"):
            super()._load_rng_state(folder)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is not None:
            state = checkpoint.load_state(Path(best))
            self.run.load_model_state(state)
        super()._load_best_model()

    def _check_same_method(self, folder: Path) -> None:
        manifest = checkpoint.read_manifest(folder)
        if "scheduler.pt" not in manifest["files"]:
            raise TrainingError(
                f"{folder} has weights but no optimizer state (save_only_model), so no run can be "
                "resumed from it: load it with PeftModel.from_pretrained, or start a new run"
            )
        with checkpoint.explain_read_errors(folder, MANIFEST):
            written = dict(manifest["method"])
        for name, value in identify_method(self.method).items():
            if written.get(name) != value:
                raise MethodError(
                    f"{folder} was written with {name}={written.get(name)!r}, this run has "
                    f"{name}={value!r}; resume with the same method, or start a new run"
                )

    def _check_same_step(self, folder: Path) -> None:
        with checkpoint.explain_read_errors(folder, TRAINER_STATE_NAME):
            step = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).global_step
            written = load_manifest(folder)["step"]
            if step != written:
                raise ValueError(f"it is of step {step}, the checkpoint of step {written}")

    def _check_same_optimizer(self, folder: Path) -> None:
        written = load_manifest(folder)["optimizer"]
        name = _optimizer_name(self.run.optimizer)
        if written != name:
            raise MethodError(
                f"{folder} has the state of the optimizer {written}, and this run has {name}; "
                "resume with the same one, or start a new run"
            )


def identify_method(method: Method) -> dict[str, Any]:
    """Return name, hyperparameters and plugged parts of a method, to compare it with another.

    The values are those of a round trip through JSON, as a manifest holds them.
    """
    values = {
        "name": method.name,
        **method.hyperparameters(),
        "plugged": method.plugged.describe(),
    }
    identity: dict[str, Any] = json.loads(json.dumps(values, default=_function_name))
    return identity


def _function_name(value: Any) -> str:
    """Return the name of a function, whose `repr` differs from process to process."""
    return getattr(value, "__qualname__", None) or repr(value)


def _optimizer_name(optimizer: torch.optim.Optimizer) -> str:
    """Return the class name of an optimizer, without accelerate's wrapper."""
    bare = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    return type(bare).__name__
