"""Errors a user can act on: what, where, what was expected, what to do."""


class MethodError(ValueError):
    """A field, a combination or a model that a method cannot work with; raised before training."""


class TrainingError(RuntimeError):
    """Training cannot go on or did not do what the method needs."""
