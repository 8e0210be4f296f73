"""One training run from a description of it: what the command line and a study both start."""

from rankwright.job.config import TrainConfig
from rankwright.job.load import RunFolder, load_adapted, load_base
from rankwright.job.train import Job, RunResult, set_up, train

__all__ = [
    "Job",
    "RunFolder",
    "RunResult",
    "TrainConfig",
    "load_adapted",
    "load_base",
    "set_up",
    "train",
]
