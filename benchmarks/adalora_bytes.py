"""Bytes of an AdaLoRA step beyond the frozen weights: ours beside PEFT's, on roberta-base's size.

    python -m benchmarks.adalora_bytes

Parameters, gradients, Adam's moments, averages of the scores, and what the graph keeps for the
backward. Exact, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from benchmarks.goals import peft_adalora
from benchmarks.meters import saved_bytes
from benchmarks.shapes import SHAPES
from benchmarks.steps import loop_over
from benchmarks.variants import floor
from rankwright.methods import AdaLoRA
from rankwright.procedures.allocate.allocate import AllocateState


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Parameters, gradients of the same size, and the optimizer's state."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    state = (t for p in parameters for t in optimizer.state[p].values() if isinstance(t, Tensor))
    return 2 * _bytes(parameters) + _bytes(state)


def ours(base: nn.Module, batch: dict[str, Tensor]) -> tuple[int, int, int]:
    """Return bytes of training state, of scores, and of what the graph keeps."""
    loop = loop_over(base, AdaLoRA(), batch)
    loop.train_step(batch)
    allocation = loop.find(AllocateState)
    assert allocation is not None
    averages = allocation.state_dict()["score"].values()
    scores = _bytes(tensor for tensors in averages for tensor in tensors)
    trained = _trained(loop.model, loop.optimizer)
    return trained, scores, saved_bytes(loop.model, lambda: loop.model(**batch).loss)


def pefts(base: nn.Module, batch: dict[str, Tensor]) -> tuple[int, int, int]:
    """The same of PEFT's AdaLoRA in the loop of its documentation."""
    model, optimizer = peft_adalora(base)
    model(**batch).loss.backward()
    optimizer.step()
    model.base_model.update_and_allocate(1)
    optimizer.zero_grad()
    allocator = model.base_model.rankallocator
    averages = (allocator.ipt, allocator.exp_avg_ipt, allocator.exp_avg_unc)
    scores = _bytes(tensor for tensors in averages for tensor in tensors.values())
    return _trained(model, optimizer), scores, saved_bytes(model, lambda: model(**batch).loss)


def main() -> None:
    """Print both and their ratio, and what no scores and no adapter's graph would need."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    base = SHAPES["roberta"].build()
    batch = SHAPES["roberta"].batch(base)
    here, there = ours(base, batch), pefts(base, batch)
    frozen = floor(base)
    least = here[0] + saved_bytes(frozen, lambda: frozen(**batch).loss)
    for name, (trained, scores, graph) in (("ours", here), ("PEFT", there)):
        print(
            f"{name}: {(trained + scores + graph) / 1e6:.0f} MB = training state "
            f"{trained / 1e6:.0f}, scores {scores / 1e6:.0f}, graph {graph / 1e6:.0f}"
        )
    print(f"ratio {sum(here) / sum(there):.2f}; without scores, over the floor's graph: ", end="")
    print(f"{least / sum(there):.2f}")


if __name__ == "__main__":
    main()
