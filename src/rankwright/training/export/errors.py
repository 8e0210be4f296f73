"""The error of an export."""


class ExportError(RuntimeError):
    """An export cannot be made, or what was written does not compute what it should."""
