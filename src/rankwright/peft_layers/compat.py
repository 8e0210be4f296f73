"""Check on import that the private names of other libraries that rankwright uses still exist.

A new release of PEFT or PyTorch may rename any of them. The error then comes on import, with the
version and the name, instead of in the middle of a training run.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable

PEFT_NAMES = (
    "peft.tuners.lora:LoraLayer",
    "peft.tuners.lora.layer:LoraLayer.adapter_layer_names",
    "peft.tuners.lora.layer:LoraVariant.forward",
    "peft.tuners.lora.layer:LoraVariant.merge_safe",
    "peft.tuners.lora.layer:LoraVariant.merge_unsafe",
    "peft.tuners.lora.layer:LoraVariant.unmerge",
    "peft.tuners.lora.layer:Embedding._embed",
    "peft.tuners.lora.layer:Embedding._get_embed_scale",
    "peft.tuners.lora.layer:LoraLayer._unmerged_base_weight",
    "peft.tuners.lora.layer:MultiheadAttention",
    "peft.tuners.lora.layer:ParamWrapper",
    "peft.tuners.tuners_utils:BaseTunerLayer.frozen_peft_weight_names",
    "peft.utils.integrations:dequantize_bnb_weight",
    "peft.utils.integrations:dequantize_module_weight",
    "peft.utils.constants:DUMMY_TARGET_MODULES",
    "peft.utils.other:ModulesToSaveWrapper",
)

TORCH_NAMES = (
    "torch:_foreach_clamp_min",
    "torch:_foreach_clamp_max_",
    "torch:_foreach_sub_",
    "torch:ops.aten._unsafe_view",
    "torch:_C._are_functorch_transforms_active",
    "torch.autograd.forward_ad:_current_level",
    "torch.multiprocessing.reductions:StorageWeakRef",
)


class CompatibilityError(ImportError):
    """An installed library lacks a name that this version of rankwright needs."""


def check(names: Iterable[str]) -> None:
    """Check that every `module:attribute.path` can be resolved.

    Raises:
        CompatibilityError: One cannot be resolved; the message has the package, its version and
            the name.
    """
    for name in names:
        module_name, _, path = name.partition(":")
        package = module_name.partition(".")[0]
        try:
            found: object = importlib.import_module(module_name)
            for attribute in path.split("."):
                found = getattr(found, attribute)
        except (ImportError, AttributeError) as error:
            raise CompatibilityError(
                f"{package} {importlib.metadata.version(package)} has no {name}, which rankwright "
                f"{importlib.metadata.version('rankwright')} needs; install the versions of "
                "constraints.txt"
            ) from error


check(PEFT_NAMES + TORCH_NAMES)
