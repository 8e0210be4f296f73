"""Train any method under any transformers Trainer: mixin, checkpoints, cost, export."""

import rankwright.peft_layers.compat  # noqa: F401  before a name of PEFT is imported
from rankwright.training.trainer import MethodMixin, Trainer, with_method

__all__ = ["MethodMixin", "Trainer", "with_method"]
