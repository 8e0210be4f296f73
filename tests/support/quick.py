"""What makes tests slow and is none of their business, taken away.

A trainer collects garbage at every start, among all objects that the imports left (0.2 s);
a checkpoint waits for the disk (0.06 s) and compiles the template of PEFT's model card (0.04 s).
"""

import gc
import os

import pytest
from peft import PeftModel


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone: no flushes, no model cards, and what is here now is no garbage."""
    patch.setattr(os, "fsync", lambda _descriptor: None)
    patch.setattr(PeftModel, "create_or_update_model_card", lambda _model, _folder: None)
    gc.collect()
    gc.freeze()
