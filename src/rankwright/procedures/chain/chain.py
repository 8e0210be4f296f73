"""A chain of adapters: train a booster for a while, put it on the stack, start the next one.

Round t of module l, with the base weight W_l (out, in) and s = lora_alpha / r:

    W_l^(t) = W_l^(t-1) + shrinkage * s * B_t A_t     for the layers selected in round t,

where A_t (r, in) and B_t (out, r) are what the round's steps made of a fresh A_t and B_t = 0. W_l
is not written: finished boosters are a frozen history (:mod:`rankwright.layers.stacked`), so the
adapter that is saved is complete at every step. Every draw is a pure function of (seed, round,
module name). One of the two factors can be left as it was drawn (:mod:`.frozen`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args

from rankwright.core.fields import check_field, is_count
from rankwright.core.part_registry import part_name, register_part
from rankwright.core.run import Run
from rankwright.core.schedule import Multiplier, Phase, Shape
from rankwright.core.slots import Layer, Procedure, ProcedureState
from rankwright.errors import MethodError
from rankwright.layers.stacked.layer import Side, StackedLoRA
from rankwright.procedures.chain.booster_rules import Basis, BoosterRules, Mode
from rankwright.procedures.chain.boosters import Boosters
from rankwright.procedures.chain.frozen import DRAWS, SIDES, FrozenDraw
from rankwright.procedures.chain.rounds import LrPolicy, equal_lengths, pieces, round_schedule
from rankwright.procedures.chain.selection import EVEN, POLICIES, Policy, groups, number_of_groups

if TYPE_CHECKING:
    from rankwright.core.slots import Slots

logger = logging.getLogger(__name__)

Rows = Callable[[Run, int], Sequence[int]]
"""(run, round) -> the training rows the round draws from."""


@register_part("chain")
@dataclass(frozen=True, kw_only=True)
class Chain(Procedure):
    """Boosters one after the other, on all layers or on a few of them in turn.

    Attributes:
        rounds: Number of boosters, over which the steps are divided evenly. None: the length of
            `ranks` if given, else 32 or the method's own number, reduced so that every round has
            at least 20 steps.
        steps_per_round: Optimizer steps of a round instead; the last one may be shorter.
        epochs_per_round: Passes over the training rows of a round instead, to the nearest step.
        ranks: Rank of every round; of a module whose own rank is smaller, that. None: r always. s
            stays lora_alpha / r.
        layers_per_round: Layers trained in a round: a number (int), a share (float; rounded up),
            None for all. A layer is a numbered block of the network; a module outside any block
            counts as one.
        selection: How they are drawn: "uniform": all subsets equally likely; "round_robin":
            shuffled turns, no layer is left out for long; "blocks": turns of neighbouring layers;
            "top_heavy": upper layers more often; in Python also a `Policy`.
        shrinkage: Factor on a booster when it is put on the stack; any but 1 moves the function.
        reset_optimizer: Forget moments and step counts of what was absorbed.
        reset_head: Forget those of all other trained parameters too (head, `modules_to_save`).
        lr_policy: "global": one schedule over the whole run; "restart": the schedule anew in every
            round; "rewarm": global, times a linear warm-up at the start of every round but the
            first.
        rewarm_steps: Length of that warm-up in optimizer steps.
        mode: "history": finished boosters compute as low-rank products. "fold": when more than
            `rank_cap` ranks of a module do, they move into a working copy of its weight.
            "recompress": when a module has more than `rank_cap` finished ranks, the best
            approximation of that rank takes their place.
        rank_cap: Number of finished ranks of a module beyond which "fold" and "recompress" act.
        frozen: The factor that is drawn for every round and not trained, "A" or "B", as in
            RAC-LoRA; the other one starts at zero. None: both are trained.
        frozen_draw: How it is drawn: "gaussian", with variance 1 / in (1 / out); "orthonormal";
            "unbiased": E[A^T A] = I (E[B B^T] = I). See `frozen.draw_frozen`.
        projected: Multiply the free factor's gradient by (s^2 S S^T)^-1, S being the frozen one.
            With SGD and one step a round, the projected gradient step of size lr.
        round_rows: Rows of every round; None for all rows.
        round_basis: First factors of every booster. Where it gives B != 0, the round starts at
            W + s B A instead of W: the function jumps, and it is the hook's author who wants that.
        least_rank: Log a warning if the expected final rank r T L_s / L is below this.
        default_rounds: See `rounds`.
    """

    rounds: int | None = None
    steps_per_round: int | None = None
    epochs_per_round: float | None = None
    ranks: Sequence[int] | None = None
    layers_per_round: float | int | None = None
    selection: str | Policy = "uniform"
    shrinkage: float = 1.0
    reset_optimizer: bool = True
    reset_head: bool = False
    lr_policy: LrPolicy = "global"
    rewarm_steps: int = 0
    mode: Mode = "history"
    rank_cap: int = 64
    frozen: Side | None = None
    frozen_draw: FrozenDraw = "gaussian"
    projected: bool = False
    round_rows: Rows | None = field(default=None, repr=False)
    round_basis: Basis | None = field(default=None, repr=False)
    least_rank: float = 0.0
    default_rounds: int = 32

    def __post_init__(self) -> None:
        share = self.layers_per_round
        valid_share = share is None or (0 < share <= 1 if isinstance(share, float) else share >= 1)
        policy = callable(self.selection) or self.selection in POLICIES
        policies = get_args(LrPolicy)
        warms = self.lr_policy == "rewarm"
        rewarm = self.rewarm_steps >= 1 if warms else self.rewarm_steps == 0
        ways = ("rounds", "steps_per_round", "epochs_per_round")
        given = [name for name in ways if getattr(self, name) is not None]
        for name in given[:-1]:
            check_field(self, name, False, f"None where {given[-1]} is given")
        for name in given:
            counts = name == "epochs_per_round" or is_count(getattr(self, name))
            check_field(self, name, counts, "None or an integer of at least 1")
        epochs, ranks, modes = self.epochs_per_round, self.ranks, get_args(Mode)
        valid_ranks = ranks is None or (len(ranks) > 0 and min(ranks) >= 1)
        projects = self.frozen is not None or not self.projected
        for name, holds, expected in (
            ("epochs_per_round", epochs is None or epochs > 0, "None or above 0"),
            ("ranks", valid_ranks, "None, or an integer of at least 1 a round"),
            ("layers_per_round", valid_share, "None, an integer >= 1 or 0 < share <= 1"),
            ("selection", policy, f"one of {', '.join(POLICIES)}, or a function"),
            ("shrinkage", self.shrinkage > 0, "a number above 0"),
            ("lr_policy", self.lr_policy in policies, f"one of {', '.join(policies)}"),
            ("rewarm_steps", rewarm, "at least 1" if warms else "0, or lr_policy='rewarm'"),
            ("mode", self.mode in modes, f"one of {', '.join(modes)}"),
            ("rank_cap", self.rank_cap >= 1, "an integer of at least 1"),
            ("frozen", self.frozen in (None, *SIDES), "None, A or B"),
            ("frozen_draw", self.frozen_draw in DRAWS, f"one of {', '.join(DRAWS)}"),
            ("projected", projects, "False where frozen is None"),
        ):
            check_field(self, name, holds, expected)

    def layer(self) -> Layer:
        """Stacks, which have room for what is finished."""
        return StackedLoRA()

    def passes(self, total_steps: int) -> float:
        """One a step.

        Raises:
            MethodError: There are more rounds than steps.
        """
        if self.steps_per_round is None and self.epochs_per_round is None:
            self._equal_lengths(total_steps)
        return float(total_steps)

    def check(self, slots: Slots) -> None:
        """See `Part.check`: two parts cannot both say where a booster starts."""
        given = [name for name in ("frozen", "round_basis") if getattr(self, name) is not None]
        if slots.init is not None and given:
            raise MethodError(
                f"chain with {given[0]} writes the first factors of every round, and the init "
                f"{part_name(slots.init)} those of the first; leave one of them out"
            )

    def start(self, run: Run) -> ChainState:
        """See `Procedure.start`.

        Raises:
            MethodError: A layer is not a stack, starts at B != 0 without a companion, or cannot be
                folded; a rank is larger than r; or nobody knows the length of an epoch.
        """
        return ChainState(run, self)

    def rules(self) -> BoosterRules:
        """Return the fields by which boosters start and are kept."""
        names = (field.name for field in dataclasses.fields(BoosterRules))
        return BoosterRules(**{name: getattr(self, name) for name in names})

    def lengths(self, total_steps: int, steps_per_epoch: int = 0) -> list[int]:
        """Optimizer steps of every round.

        Args:
            total_steps: Of the run.
            steps_per_epoch: Needed with `epochs_per_round` only.

        Raises:
            MethodError: There are more rounds than steps, or not as many as ranks; or a round is
                shorter than a step.
        """
        if self.epochs_per_round is not None:
            lengths = pieces(total_steps, self._steps_of(steps_per_epoch))
        elif self.steps_per_round is not None:
            lengths = pieces(total_steps, self.steps_per_round)
        else:
            lengths = self._equal_lengths(total_steps)
        if self.ranks is not None and len(self.ranks) != len(lengths):
            raise MethodError(
                f"ranks = {list(self.ranks)} are {len(self.ranks)}, but {total_steps} optimizer "
                f"steps make {len(lengths)} rounds; give one rank a round"
            )
        return lengths

    def _equal_lengths(self, total_steps: int) -> list[int]:
        number = self.rounds or (None if self.ranks is None else len(self.ranks))
        return equal_lengths(total_steps, number, self.default_rounds)

    def _steps_of(self, steps_per_epoch: int) -> float:
        steps = (self.epochs_per_round or 0) * steps_per_epoch
        if steps < 1:
            raise MethodError(
                f"epochs_per_round = {self.epochs_per_round} is less than one of the "
                f"{steps_per_epoch} optimizer steps of an epoch; choose a larger share"
            )
        return steps


class ChainState(ProcedureState):
    """A chain at work.

    Attributes:
        round: Number of the round in hand, from 0; in the end the number of rounds.
        selected: Layers that it trains; None before the first step, when nothing is drawn.
        boosters: What is trained, and what is finished.
    """

    def __init__(self, run: Run, chain: Chain) -> None:
        super().__init__(run)
        self.chain = chain
        self.needs = frozenset({"after_step"} | ({"after_backward"} if chain.projected else set()))
        self.boosters = Boosters(run, chain.rules())
        self.groups = groups(self.boosters.stacks)
        self.per_round = number_of_groups(chain.layers_per_round, len(self.groups))
        self.round = 0
        self.selected: list[str] | None = None
        self.restricts_rows = chain.round_rows is not None
        self._ends: list[int] = []
        self._saved_ends: list[int] = []  # of the run that is resumed
        self._check_epochs()
        self._choose()
        self.boosters.train_chosen()  # now: the optimizer takes what requires a gradient

    # What the engine asks ----------------------------------------------------------------------

    def phases(self, total_steps: int) -> list[Phase]:
        """One phase a round."""
        lengths = self._lengths(total_steps)
        return [Phase(f"round {t}/{len(lengths)}", n) for t, n in enumerate(lengths, start=1)]

    def rows(self, phase: int) -> Sequence[int] | None:
        """The rows of `round_rows`."""
        return None if self.chain.round_rows is None else self.chain.round_rows(self.run, phase)

    def schedule(self, role: str, shape: Shape, total_steps: int) -> Multiplier:
        """The user's schedule under `lr_policy`."""
        del role
        lengths = self._lengths(total_steps)
        return round_schedule(self.chain.lr_policy, shape, lengths, self.chain.rewarm_steps)

    # Events ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the first round, or take up the one that was interrupted.

        Raises:
            MethodError: The rounds so far ended at other steps in the run that is resumed.
        """
        self._ends = list(accumulate(self._lengths(self.run.total_steps)))
        self._check_ends()
        if self.selected is None:
            self._warn_of_low_rank()
            self._open()
            return
        self.boosters.fold_again()
        self.boosters.train_chosen()
        self._measure()

    def after_backward(self) -> None:
        """Turn the free factor's gradient into the exact step, if `projected`."""
        if self.chain.projected:
            for name in self._in_training():
                self.boosters.project(name)

    def after_step(self) -> None:
        """Close the round after its last step, and open the next."""
        if self.run.step + 1 == self._ends[self.round]:
            self._close()
            self.round += 1
            self._open()

    def end(self) -> None:
        """Drop the working copies: what is evaluated from here on is what is saved."""
        self.boosters.unfold()

    # State -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Round, selection and structure; the values are in the adapter's own weights."""
        return {
            "round": self.round,
            "ends": list(self._ends),
            "selected": self.selected,
            "boosters": self.boosters.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rebuild the structure that the adapter's weights are loaded into next."""
        self.round = state["round"]
        self._saved_ends = list(state.get("ends", []))
        self.selected = state["selected"]
        self.boosters.load_state_dict(state["boosters"])
        self._choose()

    # Rounds ------------------------------------------------------------------------------------

    def _open(self) -> None:
        over = self.round == len(self._ends)
        self.selected = [] if over else self._draw_selection()
        self._choose()
        self.boosters.train_chosen()
        for name in self._in_training():
            self.boosters.start(name, self.round)
        self._measure()

    def _close(self) -> None:
        for name in self._in_training():
            self.boosters.finish(name, self.round)
            if self.chain.reset_optimizer:
                self.run.reset_optimizer(self.boosters.stacks[name].parameters)
        if self.chain.reset_head:
            self.run.reset_optimizer(self.boosters.outside())

    def _in_training(self) -> list[str]:
        chosen = self.groups if self.selected is None else self.selected
        return [name for group in chosen for name in self.groups[group]]

    def _choose(self) -> None:
        self.boosters.choose(self._in_training(), self.round)

    def _draw_selection(self) -> list[str]:
        names = list(self.groups)
        policy = self.chain.selection
        policy = POLICIES[policy] if isinstance(policy, str) else policy
        chosen = list(policy(self.run.generator, self.round, names, self.per_round))
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(names):
            raise MethodError(
                f"the selection policy chose {chosen} in round {self.round}; expected some of "
                f"{', '.join(names)}, each once"
            )
        return chosen

    def _lengths(self, total_steps: int) -> list[int]:
        epochs = self.chain.epochs_per_round is not None
        return self.chain.lengths(total_steps, (self.run.steps_per_epoch() or 0) if epochs else 0)

    # Looking -----------------------------------------------------------------------------------

    def _measure(self) -> None:
        metrics, boosters = self.run.metrics, self.boosters
        metrics["round"] = min(self.round + 1, len(self._ends))
        metrics["mean_rank"] = boosters.mean_rank()
        metrics["stored_parameters"] = boosters.stored_parameters()
        if self.chain.mode == "recompress":
            metrics["discarded_energy"] = boosters.discarded
        even = self.chain.selection in EVEN or self.per_round == len(self.groups)
        if self.chain.frozen is not None and even:
            metrics["lambda_min"] = self.lambda_min(self.chain.frozen)

    def lambda_min(self, side: Side) -> float:
        """Smallest eigenvalue of the expected projection of this round, over all modules.

        That is r / in with A frozen and r / out with B, times the share of rounds that choose a
        module, which is the same for all of them with an even selection.
        """
        return self.per_round / len(self.groups) * self.boosters.smallest_share(side)

    def _check_epochs(self) -> None:
        if self.chain.epochs_per_round is not None and self.run.steps_per_epoch() is None:
            raise MethodError(
                f"epochs_per_round = {self.chain.epochs_per_round}, but the loop does not know how "
                "long an epoch is; pass steps_per_epoch= to it, or use steps_per_round"
            )

    def _check_ends(self) -> None:
        so_far = slice(self.round + 1)
        if self._saved_ends and self._saved_ends[so_far] != self._ends[so_far]:
            raise MethodError(
                f"this checkpoint cannot be resumed: its rounds end after {self._saved_ends} "
                f"steps, those of this run after {self._ends}, and round {self.round + 1} is in "
                "hand; resume with the same number of steps"
            )

    def _warn_of_low_rank(self) -> None:
        r = max(stack.A.width for stack in self.boosters.stacks.values())
        expected = r * len(self._ends) * self.per_round / len(self.groups)
        if expected < self.chain.least_rank:
            logger.warning(
                "the chain ends at an expected rank of %.1f a module: %d rounds of rank %d on %d "
                "of %d layers; train longer, or raise rounds, r or layers_per_round",
                *(expected, len(self._ends), r, self.per_round, len(self.groups)),
            )
