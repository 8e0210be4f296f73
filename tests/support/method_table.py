"""One row a method: what the tests that run over all methods have to know of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

import rankwright.methods  # noqa: F401  (registers the methods)
from models import tiny_bert, tiny_llama
from rankwright.core.method import Method
from rankwright.core.method_registry import available_methods
from rankwright.methods._whole_modules import Whole

STEPS = 8
"""Optimizer steps of a run: two epochs of `ROWS` rows in batches of `BATCH`."""

BATCH = 4
ROWS = 16

TABLE: dict[str, Row] = {}


@dataclass(frozen=True)
class Row:
    """A method as the tests run it.

    Attributes:
        fields: Hyperparameters small enough for every phase to happen within `STEPS` steps.
        phases: Names and lengths of the phases of a run of `STEPS` steps.
        passes: Passes through the model that such a run takes, in units of a step.
        wrong: A field of its own with a value that is refused; None if it has none of its own.
    """

    fields: dict[str, Any]
    phases: list[tuple[str, int]]
    passes: float
    wrong: dict[str, Any] | None = None


TABLE["lora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0},
    phases=[("train", 8)],
    passes=8,
)
TABLE["dora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0},
    phases=[("train", 8)],
    passes=8,
    wrong={"norm_grad": "half"},
)
TABLE["bidora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "val_fraction": 0.25, "upper_betas": (0.9, 0.98)},
    phases=[("search", 4), ("retrain", 4)],
    passes=4 * 3 + 4,
    wrong={"val_fraction": 1.0},
)
TABLE["bilora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "val_fraction": 0.25},
    phases=[("search", 8)],
    passes=8 * 3,
    wrong={"orthogonality": -1.0},
)
TABLE["autolora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "val_fraction": 0.25, "warmup": 0.25},
    phases=[("search", 4), ("retrain", 4)],
    passes=1 + 3 * 3 + 4,
    wrong={"threshold": -1.0},
)
TABLE["diffora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "val_fraction": 0.25, "warmup": 0.25},
    phases=[("search", 4), ("retrain", 4)],
    passes=1 + 3 * 3 + 4,
    wrong={"keep": 0.0},
)
TABLE["beamlora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "top_p": 0.6},
    phases=[("train", 8)],
    passes=8,
    wrong={"every": 3},
)
TABLE["dora_dynamic"] = Row(
    fields={"r": 1, "lora_alpha": 4.0, "warm": 0.25, "cool": 0.25},
    phases=[("train", 8)],
    passes=8,
    wrong={"warm": 1.0},
)
TABLE["adalora"] = Row(
    fields={"r": 1, "lora_alpha": 4.0, "warm": 0.25, "cool": 0.25},
    phases=[("train", 8)],
    passes=8,
    wrong={"beta2": 1.0},
)
TABLE["xgblora"] = Row(
    fields={"r": 1, "lora_alpha": 2.0, "rounds": 4, "layers_per_round": 1},
    phases=[("round 1/4", 2), ("round 2/4", 2), ("round 3/4", 2), ("round 4/4", 2)],
    passes=8,
    wrong={"shrinkage": 0.0},
)
TABLE["cola"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "ranks": [2, 1]},
    phases=[("round 1/2", 4), ("round 2/2", 4)],
    passes=8,
    wrong={"ranks": [2, 0]},
)
TABLE["rac_lora"] = Row(
    fields={"r": 2, "lora_alpha": 2.0, "rounds": 3},
    phases=[("round 1/3", 3), ("round 2/3", 3), ("round 3/3", 2)],
    passes=8,
    wrong={"frozen_draw": "uniform"},
)
TABLE["olora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0},
    phases=[("train", 8)],
    passes=8,
)
TABLE["pissa"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "niter": 2},
    phases=[("train", 8)],
    passes=8,
    wrong={"niter": -1},
)
TABLE["flat_lora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "rho": 0.3},
    phases=[("train", 8)],
    passes=8,
    wrong={"rho": -0.1},
)
TABLE["sora"] = Row(
    fields={
        "r": 2,
        "lora_alpha": 4.0,
        "xi": 0.02,
        "xi_last": 0.2,
        "stages": 2,
        "gate_init": "normal",
    },
    phases=[("stage 1/2", 3), ("stage 2/2", 5)],
    passes=8,
    wrong={"threshold": "hard"},
)

TABLE["full"] = Row(
    fields={},
    phases=[("train", 8)],
    passes=8,
)
TABLE["head_only"] = Row(
    fields={},
    phases=[("train", 8)],
    passes=8,
)
TABLE["ba_lora"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "niter": 2, "svd_k": 1},
    phases=[("train", 8)],
    passes=8 * (1 + 1 / 3),
    wrong={"temperature": 0.0},
)

TABLE["lora_plus"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "lr_ratio": 4.0},
    phases=[("train", 8)],
    passes=8,
    wrong={"lr_ratio": 0.0},
)
TABLE["lora_fa"] = Row(
    fields={"r": 2, "lora_alpha": 4.0},
    phases=[("train", 8)],
    passes=8,
    wrong={"delta": -1.0},
)
TABLE["lora_pro"] = Row(
    fields={"r": 2, "lora_alpha": 4.0},
    phases=[("train", 8)],
    passes=8,
    wrong={"x_mode": "symmetry"},
)

TABLE["lora_rite"] = Row(
    fields={"r": 2, "lora_alpha": 4.0, "escape": True},
    phases=[("train", 8)],
    passes=8,
    wrong={"skip": -1.0},
)

METHODS = sorted(TABLE)
"""Every method with a row; tests/contract fails for a registered one without."""

FACTORED = [name for name in METHODS if not issubclass(available_methods()[name], Whole)]
"""Those with low-rank factors."""

BUILDS: dict[str, Callable[..., PreTrainedModel]] = {"bert": tiny_bert, "llama": tiny_llama}

OF_EVERY_SORT = ["lora", "bidora", "xgblora", "sora"]
"""Without phases, with two, with many, and with one whose end changes the ranks."""


def one_of_each(*slots: str) -> list[str]:
    """A method for every filling of these slots: for what does not know the other slots."""
    chosen: dict[tuple[Any, ...], str] = {}
    for name in [*OF_EVERY_SORT, *METHODS]:
        filled = method_named(name).slots()
        of_slots = (type(getattr(filled, slot)) for slot in slots)
        chosen.setdefault((*of_slots, name in FACTORED), name)
    return list(chosen.values())


def method_named(name: str, **changes: Any) -> Method:
    """The method as its row says, with changes."""
    return available_methods()[name](**{**TABLE[name].fields, **changes})


BY_FORWARD = one_of_each("layer", "penalty", "procedure")
"""One for every way of computing the loss and its gradients: inits and optimizers do neither."""

IN_TURN = list(zip(METHODS, itertools.cycle(BUILDS)))
"""Every method on one of the models: for what is costly, and the engine's doing."""
