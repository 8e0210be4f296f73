"""One training run from a description of it: what the command line and a study both start."""

import rankwright.methods  # noqa: F401  registers every method, and the parts they are made of
from rankwright.core.describe import build_method
from rankwright.job.config import TrainConfig
from rankwright.job.folder import RunFolder
from rankwright.job.load import load_adapted, load_base
from rankwright.job.train import Job, RunResult, set_up, train

__all__ = [
    "Job",
    "RunFolder",
    "RunResult",
    "TrainConfig",
    "build_method",
    "load_adapted",
    "load_base",
    "set_up",
    "train",
]
