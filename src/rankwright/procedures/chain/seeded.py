"""An adapter on disk without the factors that its seed gives again.

A frozen factor is a pure function of (seed, round, module name), so a chain with `frozen` needs to
keep the trained factors only: about half of the numbers. `save_seeded` writes what
`save_pretrained` writes, less those factors, and how to draw them; `expand_seeded` turns such a
folder into the plain adapter, bit for bit. Every factor is checked against its SHA-256, for
PyTorch does not promise the same normal draws on every processor and in every release.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rankwright.core.run import Run
from rankwright.errors import MethodError
from rankwright.procedures.chain.chain import ChainState
from rankwright.procedures.chain.frozen import draw_frozen

PLAIN = "adapter_model.safetensors"
SEEDED = "adapter_seeded.safetensors"

_NOTE = "rankwright_frozen"


def save_seeded(run: Run, folder: str | os.PathLike[str]) -> list[str]:
    """Save the adapter without the frozen factors that can be drawn again.

    Args:
        run: A run whose procedure is a chain with a frozen factor.
        folder: Written as by `save_pretrained`, with `adapter_seeded.safetensors` in the place of
            `adapter_model.safetensors`.

    Returns:
        Names of the frozen factors that had to be stored: those of modules that no round has
        chosen yet, and all that `mode="recompress"`, a shrinkage of B, or `round_basis` changed.

    Raises:
        MethodError: No factor is frozen.
    """
    state = run.find(ChainState)
    if state is None or state.chain.frozen is None:
        raise MethodError(
            f"{run.label} trains both factors, so a seed gives none of them; use "
            "save_pretrained, or a chain with frozen='A' or 'B'"
        )
    path = Path(folder)
    run.model.save_pretrained(str(path), selected_adapters=[run.adapter_name])
    tensors = load_file(path / PLAIN)
    recipes = {
        f"{n}.lora_{state.chain.frozen}.weight": _recipe(state, n) for n in state.boosters.stacks
    }
    drawn = {key: _draw(recipe) for key, recipe in recipes.items()}
    exact = [key for key in recipes if torch.equal(drawn[key].to(tensors[key].dtype), tensors[key])]
    for key in exact:
        recipes[key] |= {"dtype": str(tensors[key].dtype), "sha256": _digest(tensors.pop(key))}
    note = json.dumps({key: recipes[key] for key in exact})
    save_file(tensors, path / SEEDED, metadata={"format": "pt", _NOTE: note})
    (path / PLAIN).unlink()
    return [key for key in recipes if key not in exact]


def expand_seeded(folder: str | os.PathLike[str]) -> None:
    """Turn a folder that `save_seeded` wrote into the plain adapter, in place.

    Args:
        folder: Afterwards it holds what `save_pretrained` had written, bit for bit.

    Raises:
        MethodError: This machine draws other numbers than the one that saved.
    """
    path = Path(folder)
    tensors = load_file(path / SEEDED)
    with safe_open(path / SEEDED, framework="pt") as file:
        note: dict[str, Any] = json.loads(file.metadata()[_NOTE])
    for key, recipe in note.items():
        tensors[key] = _draw(recipe).to(getattr(torch, recipe["dtype"].removeprefix("torch.")))
        if _digest(tensors[key]) != recipe["sha256"]:
            raise MethodError(
                f"{key}: seed {recipe['seed']} gives other numbers on this machine (PyTorch "
                f"{torch.__version__}) than where {path} was saved; expand it there"
            )
    temporary = path / f".{PLAIN}"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(path / PLAIN)
    (path / SEEDED).unlink()


def _recipe(state: ChainState, name: str) -> dict[str, Any]:
    """How the frozen factor of a module's whole stack is drawn, as JSON values."""
    stack, side = state.boosters.stacks[name], state.chain.frozen
    rounds = [*state.boosters.kept[name], *([state.round] if stack.A.selected else [])]
    return {
        "seed": state.run.seed,
        "module": name,
        "side": side,
        "draw": state.chain.frozen_draw,
        "features": stack.features(side) if side else 0,
        "rounds": [[t, state.boosters.rank_in(stack, t)] for t in rounds],
    }


def _draw(recipe: dict[str, Any]) -> Tensor:
    side, features = recipe["side"], recipe["features"]
    factors = [
        draw_frozen(
            recipe["seed"],
            t,
            recipe["module"],
            side=side,
            draw=recipe["draw"],
            rank=rank,
            features=features,
        )
        for t, rank in recipe["rounds"]
    ]
    return torch.cat(factors, dim=0 if side == "A" else 1) if factors else torch.empty(0)


def _digest(tensor: Tensor) -> str:
    data = tensor.contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()
