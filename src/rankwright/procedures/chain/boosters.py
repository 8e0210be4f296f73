"""The boosters of a chain on every module: which are in training, how they start, where they end.

A module that starts at factors of its weight, beside a companion that takes them away again
(:mod:`rankwright.inits.companion`), keeps both, unused, until it is first chosen: its first booster
is the pair of the start, and the companion stays below it on the stack.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from rankwright.core.run import Run
from rankwright.errors import MethodError
from rankwright.layers.stacked.layer import Side, Stack, stacks, write_ranks
from rankwright.procedures.chain.booster_rules import BoosterRules
from rankwright.procedures.chain.frozen import draw_frozen, projected_gradient

logger = logging.getLogger(__name__)


class Boosters:
    """The stacks of a run under a chain.

    Attributes:
        stacks: By module name.
        kept: The rounds whose booster is on the stack, by module name.
        companion: Rank of the companion among a module's finished ranks.
        discarded: Energy that "recompress" left out so far.

    Args:
        run: The run.
        rules: How boosters start and how long a stack may be.

    Raises:
        MethodError: A layer is not a stack, starts at B != 0 without a companion, or cannot be
            folded; or a rank is larger than r.
    """

    def __init__(self, run: Run, rules: BoosterRules) -> None:
        self.run = run
        self.rules = rules
        self.stacks = stacks(run.layers, run.adapter_name)
        self.kept: dict[str, list[int]] = {name: [] for name in self.stacks}
        self.companion = {name: s.A.finished if s.paired else 0 for name, s in self.stacks.items()}
        self.discarded = 0.0
        self._folded: dict[str, int] = {}  # to fold again after a resume
        self._check_starts()
        self._check_ranks()

    # Rounds ------------------------------------------------------------------------------------

    def choose(self, names: Collection[str], round_: int) -> None:
        """Take these modules' live pairs into the stack, in the rank of the round."""
        for name, stack in self.stacks.items():
            stack.select(name in names)
            stack.narrow(self.rank_in(stack, round_))
            if stack.paired:  # in the rank it has now; after DDP has sent every process one start
                stack.pair()
                self.companion[name] = stack.A.finished
        write_ranks(self.run.model, self.run.adapter_name, self.stacks)

    def train_chosen(self) -> None:
        """Let the chosen live pairs, and no others, receive gradients."""
        for stack in self.stacks.values():
            stack.train_live(stack.A.selected, self.rules.frozen)

    def start(self, name: str, round_: int) -> None:
        """Write the first factors of a module's booster of a round."""
        stack, rules = self.stacks[name], self.rules
        given = rules.round_basis and rules.round_basis(self.run, round_, name, stack.layer)
        if given:
            stack.start(*given)
        elif rules.frozen is not None:
            factor = self.frozen_factor(name, round_)
            stack.start(*((factor, None) if rules.frozen == "A" else (None, factor)))
        elif round_ > 0 and not stack.paired:
            # the first round keeps PEFT's draw: one round is LoRA, bit for bit
            stack.start(fresh_A(self.run.generator("booster", round_, name), stack.A.active))

    def finish(self, name: str, round_: int) -> None:
        """Put a module's booster on its stack, and keep that within `rank_cap`."""
        stack = self.stacks[name]
        if stack.absorb(self.rules.shrinkage):
            self.kept[name].append(round_)
        self._limit_rank(name, stack, round_)

    def _limit_rank(self, name: str, stack: Stack, round_: int) -> None:
        cap, finished = self.rules.rank_cap, stack.A.finished
        computed = finished - max(stack.A.folded, self.companion[name])
        if self.rules.mode == "fold" and computed > cap:
            stack.fold(finished)
        largest = min(cap, stack.layer.in_features, stack.layer.out_features)
        if self.rules.mode == "recompress" and computed > largest:
            energy = stack.recompress(largest)
            self.companion[name] = 0  # it is part of the sum that was approximated
            self.discarded += energy
            logger.info("round %d, %s: discarded energy %.3e", round_ + 1, name, energy)

    # One booster -------------------------------------------------------------------------------

    def frozen_factor(self, name: str, round_: int) -> Tensor:
        """What a round draws for a module: A (r, in) or B (out, r), float32, on the CPU."""
        stack, side = self.stacks[name], self.rules.frozen
        if side is None:
            raise MethodError("frozen = None: both factors are trained; set frozen to A or B")
        return draw_frozen(
            self.run.seed,
            round_,
            name,
            side=side,
            draw=self.rules.frozen_draw,
            rank=self.rank_in(stack, round_),
            features=stack.features(side),
        )

    def rank_in(self, stack: Stack, round_: int) -> int:
        """Rank of a round's booster of one module."""
        own, ranks = stack.A.live.shape[0], self.rules.ranks
        return own if ranks is None else min(own, ranks[min(round_, len(ranks) - 1)])

    def project(self, name: str) -> None:
        """Turn the free factor's gradient into that of the exact step."""
        stack, side = self.stacks[name], self.rules.frozen
        free, frozen = (stack.B, stack.A) if side == "A" else (stack.A, stack.B)
        if side is not None and free.live.grad is not None:
            gradient = free.live.grad.narrow(free.axis, 0, free.width)
            factor = frozen.active.detach()
            gradient.copy_(projected_gradient(gradient, factor, side, stack.scaling))

    # All boosters ------------------------------------------------------------------------------

    def outside(self) -> list[nn.Parameter]:
        """Trained parameters that are no booster's."""
        boosters = {id(p) for stack in self.stacks.values() for p in stack.parameters}
        return [p for p in self.run.trainable().values() if id(p) not in boosters]

    def mean_rank(self) -> float:
        """Finished ranks of a module on average, companions left out."""
        ranks = [s.A.finished - self.companion[name] for name, s in self.stacks.items()]
        return sum(ranks) / len(ranks)

    def stored_parameters(self) -> int:
        """Numbers in the adapter that would be saved now, companions and all."""
        return sum(
            s.rank * (s.layer.in_features + s.layer.out_features) for s in self.stacks.values()
        )

    def smallest_share(self, side: Side) -> float:
        """Smallest r / in (side A) or r / out (side B) of a module."""
        return min(s.A.width / s.features(side) for s in self.stacks.values())

    # State -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The structure; the values are in the adapter's own weights."""
        return {
            "finished": {name: stack.A.finished for name, stack in self.stacks.items()},
            "paired": [name for name, stack in self.stacks.items() if stack.paired],
            "companion": dict(self.companion),
            "folded": {n: stack.A.folded for n, stack in self.stacks.items() if stack.A.folded},
            "kept": self.kept,
            "discarded": self.discarded,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rebuild the structure that the adapter's weights are loaded into next."""
        self.kept = {name: list(rounds) for name, rounds in state["kept"].items()}
        self.companion = dict(state["companion"])
        self.discarded = state["discarded"]
        self._folded = dict(state["folded"])
        for name, stack in self.stacks.items():
            stack.resize(state["finished"][name], name in state["paired"])

    def fold_again(self) -> None:
        """Fold what was folded when the loaded state was saved."""
        for name, finished in self._folded.items():
            self.stacks[name].fold(finished)

    def unfold(self) -> None:
        """Drop the working copies."""
        for stack in self.stacks.values():
            stack.unfold()

    # Checks ------------------------------------------------------------------------------------

    def _check_starts(self) -> None:
        for name, stack in self.stacks.items():
            if stack.B.live.any() and not stack.paired:
                raise MethodError(
                    f"{name} starts at B != 0, and nothing takes s B A away again; use the default "
                    "init, or one with a companion, such as olora"
                )
            if self.rules.mode == "fold" and not stack.can_fold():
                raise MethodError(
                    f"mode='fold' needs base weights in full precision, and {name} is a quantised "
                    f"{type(stack.layer.get_base_layer()).__name__}; use mode='history'"
                )

    def _check_ranks(self) -> None:
        largest = max(stack.A.live.shape[0] for stack in self.stacks.values())
        if self.rules.ranks is not None and max(self.rules.ranks) > largest:
            raise MethodError(
                f"ranks = {list(self.rules.ranks)}: the largest is above r = {largest}; set r to "
                "it, and lora_alpha to s r"
            )


def fresh_A(generator: torch.Generator, like: Tensor) -> Tensor:  # noqa: N802
    """A of a new booster, Kaiming-uniform as PEFT's: U(-1/sqrt(in), 1/sqrt(in)), (r, in).

    Drawn on the CPU in float32, so that it is the same on every device.
    """
    bound = 1 / math.sqrt(like.shape[1])
    return torch.empty(like.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
