"""One paper, one file: hyperparameters, and the parts they are plugged into."""

from rankwright.methods.lora import LoRA

__all__ = ["LoRA"]
