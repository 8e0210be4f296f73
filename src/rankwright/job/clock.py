"""The wall time of a run over all its processes, kept beside its checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from rankwright.job.files import write_json


class RunClock(TrainerCallback):
    """Counts the wall time of a run; every checkpoint saves it.

    Args:
        started: `time.perf_counter()` when this process started the run.
        file: The file that holds the seconds up to the newest checkpoint.
        resumed: Whether the run continues one whose seconds are in the file.
    """

    def __init__(self, started: float, file: Path, *, resumed: bool) -> None:
        self._started, self._file = started, file
        self._before = _read_seconds(file) if resumed else 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run, without those that a crash undid."""
        return self._before + time.perf_counter() - self._started

    def on_save(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Write the seconds beside the checkpoint."""
        if state.is_world_process_zero:
            with contextlib.suppress(OSError):  # as in `_read_seconds`
                write_json(self._file, {"seconds": self.seconds})


def _read_seconds(file: Path) -> float:
    """Read the seconds, or 0 where there are none: a damaged clock must not stop a run."""
    try:
        seconds = float(json.loads(file.read_text("utf-8"))["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0
