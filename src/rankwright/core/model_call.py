"""Calls of the model, as a penalty on outputs sees them.

A loss may be computed without logits: TRL's trainers project hidden states in tiles, straight to
the log-probability of each label. The logits of selected positions are then computed by the model's
own head from the hidden states of the call; the body is not computed twice, and no other logits are
formed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rankwright.errors import MethodError

if TYPE_CHECKING:
    from peft import PeftModel

# Arguments that make a model compute a loss, or leave out its logits.
_LOSS_ARGUMENTS = ("labels", "shift_labels", "num_items_in_batch", "fused_lm_head")


@dataclass(frozen=True)
class ModelCall:
    """One call of the adapted model, with gradients.

    Attributes:
        model: The model.
        args: Positional arguments.
        kwargs: Keyword arguments, without those that make the model compute a loss.
        labels: The labels; None for a loss without labels.
        output: Output of the model.
        hidden: Output of the body below the head; None if the body is unknown.
    """

    model: PeftModel
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Tensor | None
    output: Any
    hidden: Any

    @property
    def by_position(self) -> bool:
        """Whether there are logits for every position, (rows, positions, vocabulary)."""
        logits = _logits(self.output)
        return self.hidden is not None if logits is None else logits.ndim == 3

    @property
    def everywhere(self) -> Tensor:
        """Mask (rows, positions) that selects all positions."""
        logits = _logits(self.output)
        given = self.hidden[0] if logits is None else logits
        return torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)

    def logits(self, where: Tensor | None = None) -> Tensor:
        """Return the logits, with their gradient.

        Args:
            where: Mask (rows, positions) of the positions; None if logits are (rows, classes).

        Returns:
            (rows or positions, classes or vocabulary).

        Raises:
            MethodError: The model returned no logits, and no head to compute them is known.
        """
        if _logits(self.output) is not None:
            return _select(_logits(self.output), where)
        body = body_of(self.model)
        if body is None or self.hidden is None:
            raise MethodError(
                f"{type(self.model.get_base_model()).__name__} gave a {type(self.output).__name__} "
                "without logits; a penalty on outputs needs a model that returns them"
            )
        with _returning(body, _narrow(self.hidden, where)):
            return self._call()

    def base_logits(self, where: Tensor | None = None) -> Tensor:
        """Return the logits of the frozen base: adapter off, eval mode, no gradient.

        Takes one forward pass. Modules that are trained in full, such as new heads, have their
        initial values.

        Args:
            where: See `logits`.
        """
        body = None if where is None else body_of(self.model)
        with torch.no_grad(), evaluation_mode(self.model), self.model.disable_adapter():
            if body is None:
                return _select(_logits(self.model(*self.args, **self.kwargs)), where)
            handle = body.register_forward_hook(lambda _m, _a, given: _narrow(given, where))
            try:
                return self._call()
            finally:
                handle.remove()

    def _call(self) -> Tensor:
        """Logits (selected, vocabulary) when the body returns the selected positions as one row."""
        return cast(Tensor, _logits(self.model(*self.args, **self.kwargs)))[0]


@contextlib.contextmanager
def watch_calls(model: PeftModel, labels: Any) -> Iterator[list[ModelCall]]:
    """Record every call of the model that computes gradients.

    Args:
        model: The adapted model.
        labels: Labels of calls that get none.

    Yields:
        The list to which calls are appended.
    """
    calls: list[ModelCall] = []
    hidden: list[Any] = []
    # an encoder-decoder makes its decoder's inputs from the labels
    dropped = () if is_encoder_decoder(model) else _LOSS_ARGUMENTS

    def below(_module: nn.Module, _args: Any, output: Any) -> None:
        hidden[:] = [output]

    def called(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if torch.is_grad_enabled():
            own = kwargs.get("labels")
            kept = {name: value for name, value in kwargs.items() if name not in dropped}
            given = labels if own is None else own
            calls.append(ModelCall(model, args, kept, given, output, *(hidden or [None])))

    handles = [model.register_forward_hook(called, with_kwargs=True)]
    body = body_of(model)
    if body is not None:
        handles.append(body.register_forward_hook(below))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode; restore every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def body_of(model: PeftModel) -> nn.Module | None:
    """Return the module below the head of a transformers language model; None if unknown."""
    base = model.get_base_model()
    body = getattr(base, getattr(base, "base_model_prefix", None) or "", None)
    head = getattr(base, "get_output_embeddings", lambda: None)()
    known = isinstance(body, nn.Module) and head is not None and not is_encoder_decoder(model)
    return body if known else None


def is_encoder_decoder(model: PeftModel) -> bool:
    """Return whether an adapted model is an encoder-decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _logits(output: Any) -> Any:
    return output if isinstance(output, Tensor) else getattr(output, "logits", None)


def _select(logits: Tensor, where: Tensor | None) -> Tensor:
    return logits if where is None else logits[where]


def _narrow(output: Any, where: Tensor | None) -> Any:
    """Output of a body with the selected positions as one row of hidden states."""
    hidden = output[0]
    return type(output)(last_hidden_state=hidden[where if where is not None else ...][None])


@contextlib.contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return this output without computing anything."""
    before = module.__dict__.get("forward")
    module.forward = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
