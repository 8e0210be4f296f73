"""The slots that take plugged parts, by name; `catalogue` has their base classes."""

SLOT_NAMES = ("layer", "init", "optimizer", "penalty", "procedure")
"""In the order in which a method is put together."""
