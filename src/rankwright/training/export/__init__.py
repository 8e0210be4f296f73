"""Export a trained adapter: as it was trained, as a plain LoRA, or merged into the base model.

Every export is written to a temporary folder beside its target, loaded again by PEFT or
transformers, compared with the model in hand tensor by tensor and on probe inputs, and only then
renamed. An adapter is also compared on the base model loaded anew from its file. The model in hand
keeps every bit; its base weights are shared, not copied.
"""

from rankwright.training.export.adapter import export_adapter
from rankwright.training.export.comparison import LOGIT_TOLERANCE
from rankwright.training.export.errors import ExportError
from rankwright.training.export.lora import export_lora
from rankwright.training.export.merged import export_merged
from rankwright.training.export.probe import Probe
from rankwright.training.export.report import ExportReport

__all__ = [
    "LOGIT_TOLERANCE",
    "ExportError",
    "ExportReport",
    "Probe",
    "export_adapter",
    "export_lora",
    "export_merged",
]
