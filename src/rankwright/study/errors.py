"""Exceptions that pass between the stages of a study."""

from __future__ import annotations


class StoppedError(Exception):
    """The study was asked to stop; what is under way goes on from checkpoints the next time."""
