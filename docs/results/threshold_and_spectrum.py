"""CPU time of SoRA's threshold beside the optimizer's step, and of BA-LoRA's spectral term.

    python docs/results/threshold_and_spectrum.py

Variants take turns in one process on one thread; the ratio is taken within a turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor, nn

from rankwright.penalties.spectral import Norm, spectral_ratio
from rankwright.procedures.sparsify.proximal import soft_threshold

MODULES, WIDTH, RANK = 56, 4096, 16  # q and v of a model of 7 billion parameters, say


def turns(number: int, variants: dict[str, Callable[[], None]]) -> None:
    """Print the median of each variant in ms, and of its ratio to the first one."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(number):
        for name, run in variants.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratios = sorted(t / u for t, u in zip(times, first, strict=True))
        low, middle, high = ratios[number // 4], statistics.median(ratios), ratios[-number // 4 - 1]
        print(
            f"{name:<28} {1e3 * statistics.median(times):8.2f} ms"
            f"   ratio {middle:.3f} (quartiles {low:.3f} to {high:.3f})"
        )


def threshold() -> None:
    """AdamW on the factors and gates, without and with the threshold."""
    shapes = [shape for _ in range(MODULES) for shape in ((RANK, WIDTH), (WIDTH, RANK), (RANK,))]
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in parameters:
        p.grad = torch.randn_like(p)
    gates = [p for p in parameters if p.ndim == 1]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def with_threshold() -> None:
        optimizer.step()
        soft_threshold(gates, 1e-9)

    turns(201, {"fused AdamW": lambda: optimizer.step(), "and the threshold": with_threshold})  # type: ignore[arg-type,return-value]


def spectral() -> None:
    """Forward and backward of the ten leading singular values over the Frobenius norm."""
    Z = torch.randn(256, 8000)

    def by_svd(z: Tensor) -> Tensor:
        return torch.linalg.svdvals(z)[:10].sum() / torch.linalg.matrix_norm(z)

    def of(function: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        return lambda: function(Z.clone().requires_grad_()).backward()  # type: ignore[no-untyped-call]

    def ours(norm: Norm) -> Callable[[], None]:
        return of(lambda z: spectral_ratio(z, 10, norm))

    variants = {f"spectral_ratio, {norm}": ours(norm) for norm in get_args(Norm)}
    turns(15, {"differentiated SVD, 256 x 8000": of(by_svd), **variants})


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    threshold()
    spectral()
