"""Row counts and digests of the data that a run reads."""

from __future__ import annotations

from dataclasses import dataclass

from rankwright.job.data import RunData


@dataclass(frozen=True)
class DataFingerprint:
    """The rows that a process trains on and is scored on.

    Attributes:
        rows: Number of rows by split.
        sha256: Digest of the rows by split, inputs and targets.
    """

    rows: dict[str, int]
    sha256: dict[str, str]

    @classmethod
    def of(cls, data: RunData) -> DataFingerprint:
        """Return the fingerprint of the data that a run has read."""
        return cls(
            rows={name: split["rows"] for name, split in data.splits.items()},
            sha256={name: split["sha256"] for name, split in data.splits.items()},
        )
