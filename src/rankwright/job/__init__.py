"""One training run from a description of it: what the command line and a study both start."""

from rankwright.job.config import TrainConfig
from rankwright.job.load import RunFolder, load_adapted, load_base
from rankwright.job.train import RunResult, train

__all__ = ["RunFolder", "RunResult", "TrainConfig", "load_adapted", "load_base", "train"]
