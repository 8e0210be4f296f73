"""Row counts and digests of the data that a process reads, and the purposes it reads it for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rankwright.job.data import RunData

Purpose = Literal["run", "trial", "measure"]


@dataclass(frozen=True)
class Data:
    """The rows that a process trains on and is scored on.

    Attributes:
        rows: How many by split.
        sha256: Their digests by split, inputs and targets.
    """

    rows: dict[str, int]
    sha256: dict[str, str]

    @classmethod
    def of(cls, data: RunData) -> Data:
        """Of what a run reads."""
        return cls(
            rows={name: split["rows"] for name, split in data.splits.items()},
            sha256={name: split["sha256"] for name, split in data.splits.items()},
        )
