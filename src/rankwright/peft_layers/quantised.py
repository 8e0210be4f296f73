"""4-bit layers of bitsandbytes, which on some CPUs can be evaluated once and then not trained."""

from __future__ import annotations

from torch import nn

from rankwright.errors import MethodError

_REARRANGES = "support_avx512bf16_for_cpu"


def keep_trainable(model: nn.Module) -> None:
    """Prevent 4-bit layers from rearranging their weight when they are evaluated.

    On a CPU with AVX512-BF16 a layer of bitsandbytes 0.50 rearranges its weight in its first pass
    in evaluation mode. From then on no gradient passes through it, and code that reads the weight,
    such as DoRA's norms, gets wrong numbers.

    Raises:
        MethodError: A weight is already rearranged.
    """
    for name, module in model.named_modules():
        if hasattr(module, _REARRANGES):
            state = getattr(module.weight, "quant_state", None)
            if getattr(state, "packing_format_for_cpu", False):
                raise MethodError(
                    f"{name}: bitsandbytes has rearranged its 4-bit weight for inference on this "
                    "CPU, since the model was evaluated; it can no longer be trained. Load the "
                    "base model again and apply the method before it is first evaluated"
                )
            setattr(module, _REARRANGES, False)
