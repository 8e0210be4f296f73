"""The mixin that trains any method under any `transformers.Trainer`.

The Trainer keeps its loop, its logging and its arguments. The mixin adds the events of
:class:`~rankwright.core.slots.ProcedureState`, one optimizer with a group for each role, schedules
that know phases, and checkpoints that are either complete or ignored.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor, nn

from rankwright.core.method import Method
from rankwright.core.parameter_groups import clipping
from rankwright.core.random_state import random_state, set_random_state
from rankwright.core.schedule import Multiplier
from rankwright.core.slots import Procedure
from rankwright.core.targets import nothing_scored
from rankwright.errors import MethodError, TrainingError
from rankwright.peft_layers import compat
from rankwright.training import checkpoint
from rankwright.training.checkpoint_mixin import CheckpointMixin
from rankwright.training.compat import TRAINER_NAMES
from rankwright.training.cost import Cost, CostMeter
from rankwright.training.events import RunEvents
from rankwright.training.failures import explain_not_finite
from rankwright.training.memory import PeakMemory
from rankwright.training.normalisation import Normalisation
from rankwright.training.refusals import (
    check_arguments,
    check_class,
    check_layer_state,
    check_reference,
    check_rows,
    check_unrecorded,
)
from rankwright.training.run import TrainerRun
from rankwright.training.sampling import PhaseSampler
from rankwright.training.signals import Termination
from rankwright.training.totals import Totals
from rankwright.training.trl import add_held_out, split_held_out, trl_class_names

compat.check(TRAINER_NAMES)

T = TypeVar("T", bound=transformers.Trainer)


class MethodMixin(CheckpointMixin):
    """A base class to put before a Trainer class, so that it trains with a method.

    `with_method` does so.

    Args:
        args: Positional arguments of the Trainer.
        method: The method whose `apply` made the model.
        held_out_dataset: The second split, for methods that learn from one; rows like those of the
            training set. By default, rows of the training set are set aside.
        head_learning_rate: Learning rate of modules trained in full, such as a new classification
            head; None for `args.learning_rate`.
        kwargs: Keyword arguments of the Trainer.

    Attributes:
        run: The run, as the method's parts see it.
    """

    optimizer: Any
    lr_scheduler: Any
    eval_dataset: Any

    def __init__(
        self,
        *args: Any,
        method: Method,
        held_out_dataset: Any | None = None,
        head_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_class(type(self))
        check_reference(type(self), super().__init__, args, kwargs)
        own = kwargs.get("eval_dataset")
        along = held_out_dataset is not None and bool(trl_class_names(type(self)))
        if along:  # TRL's trainers prepare their rows when they are built
            kwargs["eval_dataset"] = add_held_out(own, held_out_dataset)
        super().__init__(*args, **kwargs)
        if along:
            self.eval_dataset, held_out_dataset = split_held_out(self.eval_dataset, own)
        check_arguments(self.args, method)
        if self.model_init is not None:
            raise MethodError(
                "model_init makes a new model at every train(), which the method would not see; "
                "pass model=method.apply(...) instead"
            )
        self.method = method
        self.run = TrainerRun(self, method, held_out_dataset)
        check_layer_state(self.args, self.run)
        check_rows(self, method, self.run.procedure)
        self._head_learning_rate = head_learning_rate
        self._cost = CostMeter(PeakMemory(self.args.device))
        self._totals = Totals(self, self.run)
        self._termination = Termination()
        self._normalisation = Normalisation(self)
        self._unrecorded = False
        self._clips = True
        self.add_callback(RunEvents(self.run, self._cost, self._totals, self._termination))

    @property
    def interrupted(self) -> bool:
        """Whether SIGTERM, or Ctrl-C on the command line, ended the last `train`."""
        return self._termination.stopped

    # Before the first step ---------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as `Trainer.train` does; only complete checkpoints are resumed.

        Raises:
            TrainingError: There is no complete checkpoint, or the loss became NaN or infinite.
            MethodError: The checkpoint was written by another method or other hyperparameters.
        """
        output = Path(self.args.output_dir)
        checkpoint.check_names_free(output)
        if resume_from_checkpoint is True:
            newest = checkpoint.newest_complete(output)
            if newest is None:
                raise TrainingError(
                    f"no complete checkpoint in {output}; start without resume, or name another "
                    "output directory"
                )
            resume_from_checkpoint = str(newest)
        if resume_from_checkpoint:
            self._check_same_method(Path(resume_from_checkpoint))
            self._check_same_step(Path(resume_from_checkpoint))
        elif self.state.global_step and type(self.run.slots.procedure) is not Procedure:
            raise MethodError(
                f"{self.method.label} has phases, of which this trainer has done "
                f"{self.state.global_step} steps; resume from a checkpoint, or start again with a "
                "new trainer on a fresh method.apply(model)"
            )
        # Dropout and the order of the rows must not depend on what was drawn since construction.
        transformers.set_seed(self.args.seed)
        with self._termination.watch(), self.run.attempt():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Build one optimizer for all roles, of the class that the method or the arguments name."""
        if self.optimizer is None:
            groups = self.run.parameter_groups(
                self.args.learning_rate, self.args.weight_decay, self._head_learning_rate
            )
            own = self.run.slots.optimizer
            self.optimizer = (
                self.run.default_optimizer(groups) if own is None else own.build(self.run, groups)
            )
            self.run.warn_unused()
        self._check_roles()
        self.run.optimizer = self.optimizer
        self._clips = clipping(self.optimizer, self.args.max_grad_norm) is not None
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Build the user's schedule, stretched by the procedure over its phases and groups."""
        self.run.optimizer = self.optimizer
        self.run.total_steps = num_training_steps
        if type(self.run.slots.procedure) is Procedure or self.lr_scheduler is not None:
            super().create_scheduler(num_training_steps, optimizer)
            return self.lr_scheduler
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer if optimizer is None else optimizer, self.run.multipliers(self._shape)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _check_roles(self) -> None:
        """Refuse an optimizer of the user's without a parameter group for each role."""
        plain = type(self.run.slots.procedure) is Procedure
        if not plain and any("role" not in group for group in self.optimizer.param_groups):
            raise MethodError(
                f"{self.method.label} needs an optimizer with a parameter group for each role; "
                "build yours from trainer.run.parameter_groups(lr, weight_decay), or pass "
                "optimizer_cls_and_kwargs instead of optimizers"
            )

    def _shape(self, steps: int) -> Multiplier:
        """Return the schedule of the arguments over `steps` steps, warm-up included."""
        lone = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = transformers.get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=lone,
            num_warmup_steps=self.args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
        )
        if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            raise MethodError(
                f"lr_scheduler_type={self.args.lr_scheduler_type!r} cannot be divided into the "
                f"phases of {self.method.label}; use linear, cosine, constant or another that is a "
                "function of the step alone"
            )
        multiplier: Multiplier = scheduler.lr_lambdas[0]
        return multiplier

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # The Trainer checks for the end only after a step, so it would make one step too many in a
        # run that was killed between its last checkpoint and its result.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any | None = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not self.run.procedure.restricts_rows:
            return super()._get_train_sampler(dataset)
        per_step = self.get_total_train_batch_size(self.args)
        return PhaseSampler(self.run, len(dataset), per_step, self.args.data_seed)

    # A step ------------------------------------------------------------------------------------

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        self._normalisation.start_step(batch_samples)
        if not self._normalisation.by_targets:
            return super()._get_num_items_in_batch(batch_samples, device)
        return self._normalisation.count_step_targets(batch_samples, device)

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Train on a micro-batch; after the last one of a step, fire `after_backward`."""
        self._penalty: Tensor | float = 0.0
        self._unrecorded = True
        with self.run.penalising():
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self._unrecorded:
            check_unrecorded(self, self.method)
        if not torch.isfinite(loss):
            # Without targets the loss is NaN; an earlier check would wait for the device again.
            if self._normalisation.by_targets and not num_items_in_batch:
                raise TrainingError(nothing_scored(f"step {self.state.global_step}", inputs))
            raise TrainingError(explain_not_finite(self, "the loss", float(loss)))
        logged = loss - self._penalty  # logged separately
        if self.accelerator.sync_gradients:
            self.run.fire("after_backward")
        return logged

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute a micro-batch's share of the step's loss, penalties on its outputs included."""
        if self._unrecorded:  # the first call of a training step, with prepared inputs
            self._unrecorded = False
            self.run.record(inputs, num_items_in_batch)
        share = self._normalisation.share(inputs, num_items_in_batch)
        original, labels = super().compute_loss, inputs.get("labels")

        def compute() -> tuple[Any, ...]:
            options = {"return_outputs": return_outputs, "num_items_in_batch": share.divisor}
            given = original(model, inputs, **options)
            return given if return_outputs else (given,)

        with share.single_step:
            given, penalty = self.run.with_penalty(compute, labels, share.targets)
        loss = share.of_loss(given[0])
        if penalty is not None:
            added = share.of_penalty(penalty)
            self._penalty = added.detach() / share.divided_later
            loss = loss + added
        return (loss, *given[1:]) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(model) if self._clips else None

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # fp16 skips such a step by itself and lowers its loss scale.
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise TrainingError(explain_not_finite(self, "the norm of the gradient", float(norm)))
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as `Trainer.log` does, with the metrics of the procedure and the penalty."""
        if "loss" in logs:
            logs = {**logs, **self.run.metrics, "passes": self.run.passes}
        super().log(logs, *args, **kwargs)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        start_time -= self._totals.seconds_before
        return super()._finalize_training(trial, num_train_samples, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `Trainer.evaluate` does, but leave the random state unchanged.

        A data loader draws a number from it even without shuffling.
        """
        state = random_state()
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            set_random_state(state)
        return metrics

    def cost(self) -> Cost:
        """Return parameters, memory, time and passes of the run so far."""
        return self._cost.report(self.run)

    def process_peak_bytes(self) -> int:
        """Return the peak memory of this process so far, evaluation included.

        `cost` has the peak of the steps.
        """
        return self._cost.memory.process_peak


def with_method(trainer_class: type[T]) -> type[T]:
    """Return a subclass of `trainer_class` that takes `method=`.

    Example:
        >>> MyTrainer = with_method(trl.SFTTrainer)  # doctest: +SKIP
        >>> trainer = MyTrainer(model, args, method=method, ...)  # doctest: +SKIP

    Args:
        trainer_class: `transformers.Trainer` or a subclass.
    """
    if issubclass(trainer_class, MethodMixin):
        return trainer_class
    return type(f"{trainer_class.__name__}WithMethod", (MethodMixin, trainer_class), {})


class Trainer(MethodMixin, transformers.Trainer):
    """`transformers.Trainer` with a method."""
