"""The device that computes, by name."""

from __future__ import annotations

import torch


def device_name() -> str:
    """What computes."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
