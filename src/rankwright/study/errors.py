"""Exceptions that pass between the stages of a study."""

from __future__ import annotations


class StoppedError(Exception):
    """The study was asked to stop; its unfinished runs resume from checkpoints next time."""


class TrialFailedError(Exception):
    """A trial ended without a value; it counts among the trials of its method."""
