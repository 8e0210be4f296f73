"""One paper, one file: hyperparameters, and the parts they are plugged into."""

import rankwright.peft_layers.compat  # noqa: F401  before a name of PEFT is imported
from rankwright.methods.adalora import AdaLoRA
from rankwright.methods.autolora import AutoLoRA
from rankwright.methods.ba_lora import BALoRA
from rankwright.methods.beamlora import BeamLoRA
from rankwright.methods.bidora import BiDoRA
from rankwright.methods.bilora import BiLoRA
from rankwright.methods.cola import COLA
from rankwright.methods.diffora import DiffoRA
from rankwright.methods.dora import DoRA
from rankwright.methods.dora_dynamic import DoRADynamic
from rankwright.methods.flat_lora import FlatLoRA
from rankwright.methods.full import Full
from rankwright.methods.head_only import HeadOnly
from rankwright.methods.lora import LoRA
from rankwright.methods.lora_fa import LoRAFA
from rankwright.methods.lora_plus import LoRAPlus
from rankwright.methods.lora_pro import LoRAPro
from rankwright.methods.lora_rite import LoRARITE
from rankwright.methods.olora import OLoRA
from rankwright.methods.pissa import PiSSA
from rankwright.methods.rac_lora import RACLoRA
from rankwright.methods.sora import SoRA
from rankwright.methods.xgblora import XGBLoRA

__all__ = [
    "COLA",
    "AdaLoRA",
    "AutoLoRA",
    "BALoRA",
    "BeamLoRA",
    "BiDoRA",
    "BiLoRA",
    "DiffoRA",
    "DoRA",
    "DoRADynamic",
    "FlatLoRA",
    "Full",
    "HeadOnly",
    "LoRA",
    "LoRAFA",
    "LoRAPlus",
    "LoRAPro",
    "LoRARITE",
    "OLoRA",
    "PiSSA",
    "RACLoRA",
    "SoRA",
    "XGBLoRA",
]
