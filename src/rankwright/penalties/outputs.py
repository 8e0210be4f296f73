"""BA-LoRA's three regularisers of the logits (arXiv 2408.04556, the ICLR 2026 version).

z_P are the logits of the pretrained model, without gradient, z_F those of the model in training;
rows are the M positions of a language model whose labels count, or the N rows of a batch with D
classes.

    consistency   T^2 mean over rows of KL(softmax(z_P / T) || softmax(z_F / T))
    diversity     tokens: -mean of the entropy of softmax over the K largest logits of z_F
                  classes: sum over i != j of C_ij^2 / D,  C the covariance of the columns of z_F
    spectral      -sum_(i <= k) sigma_i(Z) / N(Z),  Z all rows of z_F, N = |Z|_F (tokens) or
                  sum_j sigma_j (classes)

Rows are those of a micro-batch on all processes together, so that several processes compute what
one computes on the same rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast, get_args

from torch import Tensor
from torch.nn import functional as F

from rankwright.algebra.precision import compute_dtype
from rankwright.core.fields import check_field
from rankwright.core.model_call import is_encoder_decoder
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Penalty
from rankwright.core.targets import IGNORED
from rankwright.errors import MethodError
from rankwright.penalties.spectral import Norm, spectral_ratio

if TYPE_CHECKING:
    from rankwright.core.model_call import ModelCall
    from rankwright.core.run import Run

ConsistencySchedule = Literal["cosine", "constant"]
Warmup = Literal["linear", "quadratic"]


@register_part("outputs")
@dataclass(frozen=True, kw_only=True)
class Outputs(Penalty):
    """BA-LoRA's regularisers: stay consistent with the base, diverse, and of leading directions.

    "Published" is the code at llm172/BA-LoRA@847505a, "paper" a note on its ICLR version.

    Attributes:
        consistency: Weight l1; None for 0.025 on tokens, 0.15 on classes (paper). Above 0 every
            batch takes an additional forward pass.
        diversity: Weight l2; None for 0.005 on tokens, 0.03 on classes (paper).
        spectral: Weight l3; None for 0.005 on tokens, 0.03 on classes (paper).
        temperature: T; 2 (published).
        top_k: K, the logits in the entropy of a token; 20 (published), 0 for the whole vocabulary.
        svd_k: k, leading singular values; None for 10 on tokens, 5 on classes (paper).
        norm: N; None for "frobenius" on tokens, "nuclear" on classes (paper).
        consistency_schedule: "cosine" (published): l1 falls to a tenth over the run; or "constant".
        warmup: Share of the steps in which l2 and l3 rise to their values; 0 (published: 0.2, but
            without effect).
        warmup_shape: How they rise: "linear" or "quadratic".
        causal_shift: Take the logits that predict the labels that count, as the loss does (ours);
            False: those at their positions, one token later (published).
        centred: Subtract from each row of Z its mean, which a softmax does not see; else `spectral`
            falls when all logits grow (ours).
    """

    experts: ClassVar[bool] = True

    consistency: float | None = None
    diversity: float | None = None
    spectral: float | None = None
    temperature: float = 2.0
    top_k: int = 20
    svd_k: int | None = None
    norm: Norm | None = None
    consistency_schedule: ConsistencySchedule = "cosine"
    warmup: float = 0.0
    warmup_shape: Warmup = "linear"
    causal_shift: bool = True
    centred: bool = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        weights = ("consistency", "diversity", "spectral")
        for name, holds, expected in (
            *((name, self._weight(name, 1.0) >= 0, "at least 0, or None") for name in weights),
            ("temperature", self.temperature > 0, "a number above 0"),
            ("top_k", self.top_k >= 0 and self.top_k != 1, "at least 2, or 0 for all"),
            ("svd_k", self.svd_k is None or self.svd_k >= 1, "at least 1, or None"),
            ("norm", self.norm in (None, *get_args(Norm)), "frobenius, nuclear or None"),
            (
                "consistency_schedule",
                self.consistency_schedule in get_args(ConsistencySchedule),
                "cosine or constant",
            ),
            ("warmup", 0 <= self.warmup <= 1, "a share in [0, 1]"),
            ("warmup_shape", self.warmup_shape in get_args(Warmup), "linear or quadratic"),
        ):
            check_field(self, name, holds, expected)

    def check_run(self, run: Run) -> None:
        """See `Penalty.check_run`.

        Raises:
            MethodError: The model answers questions by two positions, and has no logits of classes.
        """
        if self.reads_outputs() and _task(run) == "QUESTION_ANS":
            raise MethodError(
                f"{_name(run)} gives start_logits and end_logits, and a penalty on outputs needs "
                "logits; train a language model or a classifier, or set consistency, "
                "diversity and spectral to 0"
            )

    def reads_outputs(self) -> bool:
        """Unless all weights are 0."""
        return any(weight != 0 for weight in (self.consistency, self.diversity, self.spectral))

    def forwards(self) -> int:
        """That of the base model, for the consistency."""
        return int(self.consistency != 0)

    def of_outputs(self, run: Run, call: ModelCall) -> Tensor | None:
        """See `Penalty.of_outputs`."""
        tokens = call.by_position and _task(run) != "TOKEN_CLS"
        where = self._where(run, call) if call.by_position else None
        z = call.logits(where)
        z = z.to(compute_dtype(z))
        if z.shape[1] == 1:
            run.say_once(
                "the penalties on outputs have no effect: with one output a row, as in regression, "
                "all three are constant; train without them"
            )
            return None
        weights = self._weights(run, tokens)
        terms = {
            "consistency": lambda: self._consistency(run, call, where, z),
            "diversity": lambda: self._diversity(run, z, tokens),
            "spectral": lambda: self._spectral(run, z, tokens),
        }
        total: Tensor | None = None
        for name, weight in weights.items():
            value = terms[name]() if weight else None
            if value is not None:
                run.note(name, value)
                total = weight * value if total is None else total + weight * value
        return total

    # Terms ---------------------------------------------------------------------------------------

    def _consistency(
        self, run: Run, call: ModelCall, where: Tensor | None, z: Tensor
    ) -> Tensor | None:
        base = run.base_logits(call, where).to(z.dtype)
        return _mean(consistency(base, z, self.temperature))

    def _diversity(self, run: Run, z: Tensor, tokens: bool) -> Tensor | None:
        if tokens:
            return _mean(-entropy(z, self.top_k))
        rows = run.gather(z)
        if len(rows) < 2:
            run.say_once("a batch of one row has no covariance: no diversity term in it")
            return None
        return _of_all(covariance(rows), len(rows) / max(1, len(z)))

    def _spectral(self, run: Run, z: Tensor, tokens: bool) -> Tensor | None:
        norm, k = self.norm or ("frobenius" if tokens else "nuclear"), self.svd_k
        k = (10 if tokens else 5) if k is None else k
        rows = run.gather(z - z.mean(1, keepdim=True) if self.centred else z)
        if len(rows) == 0:
            return None
        if norm == "nuclear" and k >= min(rows.shape):
            run.say_once(
                f"the spectral term has no effect: svd_k = {k} singular values of outputs with "
                f"{rows.shape[0]} rows and {rows.shape[1]} columns are all of them, and the term "
                "is constant; choose a smaller svd_k, or spectral = 0"
            )
            return None
        return _of_all(-spectral_ratio(rows, k, norm), len(rows) / max(1, len(z)))

    # Weights -------------------------------------------------------------------------------------

    def _weight(self, name: str, default: float) -> float:
        value = getattr(self, name)
        return default if value is None else float(value)

    def _weights(self, run: Run, tokens: bool) -> dict[str, float]:
        """The three weights at the step in hand."""
        done = run.step / max(1, run.total_steps)
        falling = 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
        risen = min(1.0, done / self.warmup) if self.warmup else 1.0
        if self.warmup_shape == "quadratic":
            risen = risen**2
        first = falling if self.consistency_schedule == "cosine" else 1.0
        return {
            "consistency": first * self._weight("consistency", 0.025 if tokens else 0.15),
            "diversity": risen * self._weight("diversity", 0.005 if tokens else 0.03),
            "spectral": risen * self._weight("spectral", 0.005 if tokens else 0.03),
        }

    def _where(self, run: Run, call: ModelCall) -> Tensor:
        """Which positions count, (rows, positions)."""
        labels, mask = call.labels, call.kwargs.get("attention_mask")
        if labels is not None:
            counts = labels != IGNORED
        elif mask is not None and mask.ndim == 2:
            counts = mask.bool()
        else:
            counts = call.everywhere
        if not (self.causal_shift and _predicts_next(run)):
            return counts
        return F.pad(counts[:, 1:], (0, 1), value=False)


def consistency(base: Tensor, z: Tensor, T: float) -> Tensor:
    """`T^2 KL(softmax(base / T) || softmax(z / T))` of every row; (rows, columns) -> (rows,)."""
    p, q = F.log_softmax(base / T, dim=1), F.log_softmax(z / T, dim=1)
    return T**2 * F.kl_div(q, p, log_target=True, reduction="none").sum(1)


def entropy(z: Tensor, top_k: int) -> Tensor:
    """Entropy of the softmax over the `top_k` largest logits of every row, all for 0; (rows,)."""
    kept = z.topk(top_k, dim=1).values if 0 < top_k < z.shape[1] else z
    q = F.log_softmax(kept, dim=1)
    return -(q.exp() * q).sum(1)


def covariance(z: Tensor) -> Tensor:
    """`sum over i != j of C_ij^2 / D` of the covariance C of the columns; (rows, D) -> 0-dim."""
    centred = z - z.mean(0)
    C = centred.T @ centred / (len(z) - 1)
    return (C.square().sum() - C.diagonal().square().sum()) / z.shape[1]


def _mean(values: Tensor) -> Tensor | None:
    """Mean over this process's rows; the engine weights it by their number."""
    return values.mean() if len(values) else None


def _of_all(value: Tensor, over_own: float) -> Tensor:
    """Scale the gradient of a function of all processes' rows that flows to this process's rows.

    The engine adds the values of the processes weighted by their rows. The value is the same on
    all, so it stays what it is; the gradients are parts of one gradient and have to be summed.

    Args:
        value: 0-dim.
        over_own: Number of rows on all processes divided by that on this one.

    Returns:
        The same value, with the scaled gradient.
    """
    return value.detach() + over_own * (value - value.detach())


def _predicts_next(run: Run) -> bool:
    """Whether the logits of a position are for the next one's label, as in a decoder alone."""
    in_place = _task(run) == "TOKEN_CLS" or "MaskedLM" in _name(run)
    return not in_place and not is_encoder_decoder(run.model)


def _name(run: Run) -> str:
    return type(run.model.get_base_model()).__name__


def _task(run: Run) -> str | None:
    return cast("str | None", run.model.peft_config[run.adapter_name].task_type)
