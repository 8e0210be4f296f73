r"""The parts of a transformer around the adapted layers: what they need not keep.

- **Norms and activations** note the origin of their output, so that the layers that see it keep
  nothing of it; projections that share an input share its origin.
- **The gated MLP**, `down(act(gate(x)) * up(x))`, keeps g = gate(x) and u = up(x). PyTorch keeps
  act(g) and the product beside them. With p = act(g) u,

      dL/du = dL/dp act(g),    dL/dg = dL/dp u act'(g).

`fuse` prepares the modules whose classes are known, by name; any other model is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from rankwright.core.origins import note

Activation = Callable[[Tensor], Tensor]

PURE = {
    "torch.nn.modules.activation",
    "torch.nn.modules.normalization",
    "transformers.activations",
}
"""Modules whose classes are cheap and give the same for the same input every time."""

NORMS = ("LayerNorm", "RMSNorm")
"""Ends of the names of classes in transformers' models that are norms of one tensor."""

GATED_MLPS = {
    f"transformers.models.{family}.modeling_{family}.{name}MLP"
    for family, name in {
        "cohere": "Cohere",
        "gemma": "Gemma",
        "gemma2": "Gemma2",
        "gemma3": "Gemma3",
        "granite": "Granite",
        "helium": "Helium",
        "llama": "Llama",
        "mistral": "Mistral",
        "olmo": "Olmo",
        "olmo2": "Olmo2",
        "qwen2": "Qwen2",
        "qwen3": "Qwen3",
        "smollm3": "SmolLM3",
        "stablelm": "StableLm",
    }.items()
}
"""Classes whose forward is `down_proj(act_fn(gate_proj(x)) * up_proj(x))`; add your model's own."""


def prepare(model: nn.Module) -> None:
    """Let norms, activations and gated MLPs of known classes keep less; the function is the same.

    Args:
        model: Changed in place. Modules with a forward of somebody else's are left alone.
    """
    for module in model.modules():
        if _is_pure(module) and not module._forward_hooks:
            module.register_forward_hook(_note_output)
        elif _class_name(module) in GATED_MLPS and "forward" not in module.__dict__:
            module.forward = partial(_gated_mlp, module)


def release(model: nn.Module) -> None:
    """Undo `prepare`.

    Args:
        model: Changed in place.
    """
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if hook is _note_output:
                del module._forward_hooks[key]
        own = module.__dict__.get("forward")
        if isinstance(own, partial) and own.func is _gated_mlp:
            del module.forward


def _is_pure(module: nn.Module) -> bool:
    kind = type(module)
    norm = kind.__module__.startswith("transformers.models.") and kind.__name__.endswith(NORMS)
    return kind.__module__ in PURE or norm


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


# Norms and activations ---------------------------------------------------------------------------


def _note_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """A forward hook. It notes nothing where somebody else had a hand in the output."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    alone = len(module._forward_hooks) == 1 and not module._forward_pre_hooks
    if not (alone and len(args) == 1 and "forward" not in module.__dict__):
        return
    if isinstance(output, Tensor) and output.requires_grad:
        # its parameters too: the graph notices if they are written to in between
        note(output, partial(_forward_of, module), (args[0], *module.parameters(recurse=False)))


def _forward_of(module: nn.Module, x: Tensor, *_parameters: Tensor) -> Tensor:
    return cast(Tensor, module.forward(x))


# The gated MLP -----------------------------------------------------------------------------------


def _gated_mlp(mlp: Any, x: Tensor) -> Tensor:
    act, g, u = mlp.act_fn, mlp.gate_proj(x), mlp.up_proj(x)
    if torch.compiler.is_compiling() or not (g.requires_grad and u.requires_grad):
        return cast(Tensor, mlp.down_proj(act(g) * u))
    p = cast(Tensor, _Gated.apply(act, g, u))  # type: ignore[no-untyped-call]
    note(p, partial(_product, act), (g, u))
    return cast(Tensor, mlp.down_proj(p))


def _product(act: Activation, g: Tensor, u: Tensor) -> Tensor:
    return act(g) * u


class _Gated(Function):
    """`act(g) * u`."""

    @staticmethod
    def forward(ctx: Any, act: Activation, g: Tensor, u: Tensor) -> Tensor:
        ctx.act = act
        ctx.save_for_backward(g, u)
        return _product(act, g, u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        g, u = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more
            dg, du = torch.autograd.grad(_product(ctx.act, g, u), (g, u), grad, create_graph=True)
            return None, dg, du
        with torch.enable_grad():
            leaf = g.detach().requires_grad_()
            a = ctx.act(leaf)
        (dg,) = torch.autograd.grad(a, leaf, grad * u)
        return None, dg, grad * a.detach()
