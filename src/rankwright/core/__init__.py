"""Method (the slots), Run (all that a part may touch), the registry; knows torch and PEFT only."""

from rankwright.core import compat

compat.check(compat.PEFT_NAMES + compat.TORCH_NAMES)
