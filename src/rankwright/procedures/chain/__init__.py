"""Rounds of boosters: each trains a new low-rank pair on top of the finished ones."""

from rankwright.procedures.chain.chain import Chain

__all__ = ["Chain"]
