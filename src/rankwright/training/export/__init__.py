"""Export a trained adapter in another form, checked before it is in place."""

from rankwright.training.export.adapter import export_adapter, export_lora, export_merged
from rankwright.training.export.check import ExportError

__all__ = ["ExportError", "export_adapter", "export_lora", "export_merged"]
