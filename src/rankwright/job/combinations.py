"""Try which parts work on which methods, on a model of a few thousand weights.

Every method is trained for a few steps with every named part plugged in, and checked:

- a fresh adapter gives the base model's logits;
- with the adapter disabled the model is the base model, bit for bit, after training too;
- plain PEFT loads the saved adapter, and gives the trained model's logits;
- a run resumed from the middle ends at the same bits as one that was never stopped.

A pair that does not work is refused before training, with the reason. `docs/combinations.md` has
the results of `rankwright parts probe`.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from rankwright.core.loop import Loop
from rankwright.core.method import Method
from rankwright.core.method_registry import available_methods
from rankwright.core.part_registry import SINGLE_PART_SLOTS, SLOTS, available_parts, part_name
from rankwright.errors import MethodError

STEPS = 8
TOLERANCE = 1e-5  # of float32 logits: products of a stack round differently when PEFT adds them
SMALL = {"r": 2, "rounds": 2, "top_p": 0.5, "target_modules": ["q_proj", "down_proj"]}
"""Fields that make a method or a part small enough for the model and the steps, if it has them."""

T = TypeVar("T")


class BrokenError(Exception):
    """A combination that was not refused and breaks a promise of every method."""


@dataclass(frozen=True)
class Pair:
    """A method, a part, and the result of trying them together.

    Attributes:
        method: Name of the method.
        slot: Slot of the part.
        part: Name of the part.
        verdict: "yes", "no", "its own" or "taken"; see `combinations_page`.
        reason: The reason for a "no".
    """

    method: str
    slot: str
    part: str
    verdict: str
    reason: str = ""


def probe_all() -> list[Pair]:
    """Try every registered method with every named part.

    Raises:
        BrokenError: A pair is neither refused nor does it work.
    """
    return [pair for name in available_methods() for pair in probe_method(name)]


def probe_method(name: str) -> list[Pair]:
    """Try a registered method with every named part.

    Raises:
        BrokenError: A pair is neither refused nor does it work.
    """
    method = small(available_methods()[name])
    return [_probe_pair(method, slot, part) for slot in SLOTS for part in available_parts(slot)]


def _probe_pair(method: Method, slot: str, name: str) -> Pair:
    filling = getattr(method.slots(), slot)
    own = [part_name(part) for part in (filling.members() if filling else ())]
    if name in own:
        return Pair(method.name, slot, name, "its own")
    if own and slot in SINGLE_PART_SLOTS:
        return Pair(method.name, slot, name, "taken")
    try:
        probe(method.with_parts(**{slot: small(available_parts(slot)[name])}))
    except MethodError as error:
        reason = re.sub(r"base_model\.[\w.]*\.(\w+)", r"\1", str(error))  # modules by their end
        return Pair(method.name, slot, name, "no", reason)
    return Pair(method.name, slot, name, "yes")


def probe(method: Method) -> None:
    """Train a method for a few steps and check its promises.

    Raises:
        MethodError: It is refused.
        BrokenError: It breaks a promise, or fails in another way.
    """
    try:
        _check_promises(method)
    except (MethodError, BrokenError):
        raise
    except Exception as error:
        raise BrokenError(f"{method.label}: {type(error).__name__}: {error}") from error


def small(cls: type[T]) -> T:
    """Return a method or part with its defaults, except for small sizes."""
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    try:
        return cls(**{name: value for name, value in SMALL.items() if name in names})
    except MethodError:  # full fine-tuning, say, has no rank
        return cls()


# One combination ---------------------------------------------------------------------------------


def _check_promises(method: Method) -> None:
    run = _make_loop(method)
    _check_same(_logits(run.model), _base_logits(), "a fresh adapter is not the base model")
    before = _adapter_state(run)
    other = _make_loop(method)
    run.train_step(_batch(0))
    try:
        middle = _train_on(run)
    except MethodError as error:
        raise BrokenError(f"{method.label}: refused after the training began: {error}") from error
    if _same_bits(before, _adapter_state(run)):
        raise BrokenError(f"{method.label}: nothing was trained")
    with run.model.disable_adapter():
        if not torch.equal(_logits(run.model), _base_logits()):
            raise BrokenError(f"{method.label}: with the adapter disabled it is not the base model")
    with tempfile.TemporaryDirectory() as folder:
        run.model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(_base(), folder)
    _check_same(_logits(loaded), _logits(run.model), "plain PEFT loads another model")
    other.load_state_dict(middle)
    for step in range(STEPS // 2, STEPS):
        other.train_step(_batch(step))
    other.finish()
    if not _same_bits(_adapter_state(run), _adapter_state(other)):
        raise BrokenError(f"{method.label}: a resumed run ends at other numbers")


def _train_on(run: Loop) -> dict[str, Any]:
    """Train from the second step to the end; return the state in the middle."""
    for step in range(1, STEPS):
        if step == STEPS // 2:
            middle = copy.deepcopy(run.state_dict())
        run.train_step(_batch(step))
    run.finish()
    return middle


def _make_loop(method: Method) -> Loop:
    model = method.apply(_base())
    return Loop(
        model, method, total_steps=STEPS, lr=1e-2, held_out=lambda k: _batch(100 + k), seed=1
    )


def _check_same(found: Tensor, expected: Tensor, otherwise: str) -> None:
    distance = float((found - expected).abs().max())
    if not distance <= TOLERANCE:
        raise BrokenError(f"{otherwise}: logits differ by {distance:.1e}")


def _adapter_state(run: Loop) -> dict[str, Tensor]:
    state = get_peft_model_state_dict(run.model, save_embedding_layers=False)
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@lru_cache
def _template() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


@lru_cache
def _base_logits() -> Tensor:
    return _logits(_base())


def _base() -> LlamaForCausalLM:
    return copy.deepcopy(_template()).eval()


def _batch(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 32, (2, 8), generator=generator)
    return {"input_ids": tokens, "labels": tokens}


@torch.no_grad()
def _logits(model: nn.Module) -> Tensor:
    training = model.training
    found: Tensor = model.eval()(input_ids=_batch(99)["input_ids"]).logits
    model.train(training)
    return found
