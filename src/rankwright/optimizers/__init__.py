"""How the factors move: optimizers that see both factors of a layer, for any training loop."""

from rankwright.optimizers.base import PairBatch, PairOptimizer
from rankwright.optimizers.lora_fa import LoraFa, project_gradients
from rankwright.optimizers.lora_plus import LoraPlus
from rankwright.optimizers.lora_pro import LoraPro, LoraProAdamW
from rankwright.optimizers.lora_rite import LoraRite, LoraRiteOptimizer
from rankwright.optimizers.pairs import Pair, named_pairs

__all__ = [
    "LoraFa",
    "LoraPlus",
    "LoraPro",
    "LoraProAdamW",
    "LoraRite",
    "LoraRiteOptimizer",
    "Pair",
    "PairBatch",
    "PairOptimizer",
    "named_pairs",
    "project_gradients",
]
