"""Train any method under any transformers Trainer: mixin, checkpoints, cost, export."""

from rankwright.training.trainer import MethodMixin, Trainer, with_method

__all__ = ["MethodMixin", "Trainer", "with_method"]
