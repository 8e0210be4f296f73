"""Hide messages of other libraries that a user can do nothing about."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import datasets

from rankwright.training.progress_bars import no_progress_bars

_WARNINGS = {
    r"`is_gradient_checkpointing` is deprecated": FutureWarning,  # peft 0.21 reads it
    # peft 0.21 looks for modules only; a key that matches nothing is an error of ours
    r"The following (rank|alpha)_pattern keys did not match": RuntimeWarning,
}
"""Start of a hidden warning -> its category."""
_LOGGED = (
    "The tokenizer has new PAD/BOS/EOS tokens",  # the Trainer copies them, as it should
    "mtime may not be reliable",  # then it uses the step number, as we do
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars of loading and saving, the messages above, and source lines of warnings.

    All settings are restored afterwards.
    """
    handlers, form = logging.getLogger("transformers").handlers, warnings.formatwarning
    bars = datasets.is_progress_bar_enabled()
    with warnings.catch_warnings(), no_progress_bars():
        for message, category in _WARNINGS.items():
            warnings.filterwarnings("ignore", message, category)
        for handler in handlers:
            handler.addFilter(_is_news)
        datasets.disable_progress_bars()
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
        try:
            yield
        finally:
            warnings.formatwarning = form
            if bars:
                datasets.enable_progress_bars()
            for handler in handlers:
                handler.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_LOGGED)
