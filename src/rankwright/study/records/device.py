"""The name of the device that a study runs on."""

from __future__ import annotations

import torch


def device_name() -> str:
    """Return the name of the GPU, or "cpu" with the number of threads."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
