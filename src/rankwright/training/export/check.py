"""An export counts when it is whole on disk and gives the logits of the model in hand."""

from __future__ import annotations

import contextlib
import glob
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers.utils import logging

from rankwright.core.model_call import evaluation_mode
from rankwright.locks import acquire, remove_folders, unique_name
from rankwright.training.checkpoint import publish, recover

LOGIT_TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Base dtype -> how far an exact export may be off, relative to the largest logit."""


class ExportError(RuntimeError):
    """An export cannot be made, or what was written is not the model in hand."""


def check_same(expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors whose values are not exactly the same under the same names.

    Dtypes may differ: PEFT loads half-precision factors as float32.

    Args:
        expected: Of the model in hand.
        loaded: Of what was written.
        what: What was written, for the message.

    Raises:
        ExportError: A tensor is missing, is one too many, or differs in shape or a value.
    """
    for name in sorted(expected.keys() | loaded.keys()):
        if name not in expected or name not in loaded:
            where = "the model in hand" if name not in expected else "what was loaded"
            raise ExportError(f"the {what} was written, but {name} is not in {where}")
        a, b = expected[name], loaded[name]
        if a.shape != b.shape or not torch.equal(a.cpu().double(), b.cpu().double()):
            raise ExportError(
                f"the {what} was written, but {name} is not the same after loading: "
                f"{a.dtype} {tuple(a.shape)} became {b.dtype} {tuple(b.shape)}, or values differ"
            )


def logit_difference(logits: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest absolute difference of a logit.

    Args:
        logits: Of the loaded model.
        expected: Of the model in hand; same shape.
        tolerance: How much is allowed, relative to the largest absolute logit of `expected`.

    Raises:
        ExportError: It is more, or NaN.
    """
    difference = float((logits - expected).abs().max())
    allowed = tolerance * float(expected.abs().max())
    if not difference <= allowed:  # a NaN fails too
        raise ExportError(
            f"the written model gives logits that are off by {difference:.2e} on the probe inputs, "
            f"more than the {allowed:.2e} allowed; nothing was kept. Another bound, as a share of "
            "the largest logit, is set by --tolerance on the command line, tolerance= in Python"
        )
    return difference


def logits_of(model: nn.Module, probe: Mapping[str, Tensor]) -> Tensor:
    """Logits in eval mode, without gradients; every module's mode is put back.

    Args:
        model: Any module; of an output without `logits` the first tensor is taken.
        probe: Its keyword arguments.

    Returns:
        Float64, in the shape the model gives.
    """
    with evaluation_mode(model), torch.no_grad():
        output = model(**probe)
    if isinstance(output, Tensor):
        return output.double()
    logits = output.get("logits") if hasattr(output, "get") else None
    return cast(Tensor, output[0] if logits is None else logits).double()


@contextlib.contextmanager
def staged(path: str | os.PathLike[str], overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name if all goes well, and else is gone.

    Only one process at a time writes to `path`; leftovers of killed processes are deleted.

    Args:
        path: The folder to be; its parents are made.
        overwrite: Replace a model that is there.

    Raises:
        ExportError: Something is in the way, or another process is writing there.
    """
    target = Path(path).expanduser().resolve()
    _check_target(target, overwrite)
    temporary = target.with_name(f".{target.name}.writing-{unique_name()}")
    with _held(target):
        _check_target(target, overwrite)  # another process may have finished meanwhile
        temporary.mkdir()
        try:
            yield temporary
            if not overwrite:  # once more, for file systems without locks
                _check_target(target, overwrite)
            publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _held(target: Path) -> Iterator[None]:
    """Lock a future folder against other exports, and remove leftovers of dead ones."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = acquire(target.with_name(f".{target.name}.lock"))
    except OSError as error:
        raise ExportError(
            f"cannot write {target}: {error.strerror} ({error.filename}); name another folder"
        ) from error
    if lock is None:
        raise ExportError(
            f"another process is writing {target}; wait for its end, or name another folder"
        )
    try:
        if lock.sure:
            remove_folders(target.parent.glob(f".{glob.escape(target.name)}.writing-*"))
            recover(target)
        yield
    finally:
        lock.release()


def _check_target(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target} is a file; name a folder that does not exist yet")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise ExportError(
            f"{target} is not empty; name another folder, or allow it "
            "to be replaced (--overwrite; overwrite=True in Python)"
        )
    if not any((target / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise ExportError(f"{target} holds no model that could be overwritten; name another folder")


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars while it saves and loads."""
    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


@dataclass
class Errors:
    """Squares of the Frobenius norms of the changes and of what is missing of them, by layer."""

    missing: dict[str, float] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)

    @classmethod
    def none(cls, layers: Iterable[str]) -> Errors:
        """Of an export that keeps every factor."""
        layers = list(layers)
        return cls(dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 1.0))

    def add(self, name: str, change: Tensor, written: Tensor) -> None:
        """Note the change of a layer's weight, and what was written of it; both (d_out, d_in)."""
        self.whole[name] = float(change.square().sum())
        self.missing[name] = float((change - written).square().sum())

    @property
    def by_layer(self) -> dict[str, float]:
        """Relative error of every layer."""
        return {name: _ratio(self.missing[name], whole) for name, whole in self.whole.items()}

    @property
    def total(self) -> float:
        """Relative error of all layers together."""
        return _ratio(sum(self.missing.values()), sum(self.whole.values()))


def _ratio(missing: float, whole: float) -> float:
    if not whole:
        return math.inf if missing else 0.0
    return math.sqrt(missing / whole)
