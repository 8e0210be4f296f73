"""Inputs that an export is checked on: a batch of the user's, or noise in the shape of a row."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from rankwright.training.export.errors import ExportError

TOKENS = 32
CHOICES = 2
PIXELS = 224
"""Side of an image for models that take any size."""
SAMPLES = 16000
"""Samples of a probe for audio models: one second at 16 kHz, the usual rate of pretraining."""
SEED = 0

Probe = Mapping[str, Tensor]
"""A batch of inputs, by names of the model's arguments."""


def probe_inputs(model: nn.Module, given: Probe | None) -> dict[str, Tensor]:
    """Return inputs on the model's device: the given ones, or one row of noise.

    Args:
        model: The model, with a transformers config if nothing is given.
        given: A batch; None for token ids (of several choices if the model takes them), an image,
            a waveform or a log-mel spectrogram, the same at every call.

    Raises:
        ExportError: Nothing is given, and the inputs of the model are unknown.
    """
    device = next(model.parameters()).device
    if given is None:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        given = _random_row(base)
    return {name: tensor.to(device) for name, tensor in given.items()}


def _random_row(base: Any) -> dict[str, Tensor]:
    config, name = getattr(base, "config", None), getattr(base, "main_input_name", "input_ids")
    generator = torch.Generator().manual_seed(SEED)
    row = _tokens(base, generator) if name == "input_ids" else {}
    shape = _SHAPES[name](config) if config is not None and name in _SHAPES else None
    if shape is not None:
        row = {name: torch.randn(shape, generator=generator).to(base.dtype)}
    if not row:
        raise ExportError(
            f"no probe inputs can be made up for {type(base).__name__}: pass probe=, a batch as "
            "the model takes it"
        )
    taken = inspect.signature(base.forward).parameters
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        row["decoder_input_ids"] = row.get("input_ids", torch.arange(TOKENS // 4)[None]).clone()
    return row


def _tokens(base: Any, generator: torch.Generator) -> dict[str, Tensor]:
    config: Any = getattr(base, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    vocabulary = getattr(text, "vocab_size", None)
    if vocabulary is None:
        return {}
    length = getattr(text, "max_position_embeddings", None) or TOKENS
    choices = any(kind in type(base).__name__ for kind in ("MultipleChoice", "DoubleHeads"))
    shape = (1, CHOICES) if choices else (1,)
    size = (*shape, min(TOKENS, length) if length > 0 else TOKENS)  # XLNet says -1
    tokens = torch.randint(vocabulary, size, generator=generator)
    end = getattr(text, "eos_token_id", None)
    if getattr(config, "is_encoder_decoder", False) and isinstance(end, int) and end < vocabulary:
        tokens[..., -1] = end  # classifiers read the decoder's state there
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _image(config: Any) -> tuple[int, ...]:
    """Return (1, channels, height, width)."""
    vision = getattr(config, "vision_config", None) or config
    size = getattr(vision, "image_size", None) or PIXELS
    height, width = (size, size) if isinstance(size, int) else size
    return 1, getattr(vision, "num_channels", 3), height, width


def _sound(config: Any) -> tuple[int, ...]:
    """Return (1, samples), or (1, frames, bins) for a model that takes spectrograms."""
    bins = getattr(config, "num_mel_bins", None)
    return (1, SAMPLES) if bins is None else (1, config.max_length, bins)


def _spectrogram(config: Any) -> tuple[int, ...] | None:
    """Return (1, bins, frames) for Whisper and similar models, whose encoder halves the frames."""
    if not (hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions")):
        return None
    return 1, config.num_mel_bins, 2 * config.max_source_positions


_SHAPES = {"pixel_values": _image, "input_values": _sound, "input_features": _spectrogram}
