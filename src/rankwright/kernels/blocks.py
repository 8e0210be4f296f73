"""Let the parts of a transformer around the adapted layers keep less for the backward.

- **Norms and activations** note the origin of their output, so that the layers that see it need
  not keep it; projections that share an input share its origin.
- **Gated MLPs and RMS norms** of known classes compute by the functions of
  `rankwright.kernels.elementwise`.

`fuse` prepares a model. Classes are recognised by their full names; all other modules are left
unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any, cast

import torch
from torch import Tensor, nn

from rankwright.kernels.elementwise import gated, rms_norm
from rankwright.kernels.recomputation import note, transformed
from rankwright.kernels.shared_input import ungroup

PURE = {
    "torch.nn.modules.activation",
    "torch.nn.modules.normalization",
    "transformers.activations",
}
"""Python modules whose classes are cheap and deterministic."""

NOT_NOTED = (
    *(nn.ReLU, nn.Sigmoid, nn.Tanh),  # their backward keeps the output, and not the input
    *(nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax),
    nn.RReLU,  # random
)
"""Classes in those modules whose outputs get no origin."""

NORMS = ("LayerNorm", "RMSNorm")
"""Endings of the names of classes in transformers' models that are norms of one tensor."""


def gated_mlp(mlp: Any, x: Tensor) -> Tensor:
    """Compute the forward of Llama's MLP, `down_proj(act_fn(gate_proj(x)) * up_proj(x))`.

    Args:
        mlp: A module with these four parts.
        x: (..., d).
    """
    act, g, u = mlp.act_fn, mlp.gate_proj(x), mlp.up_proj(x)
    product = act(g) * u if _kept_by_autograd(g, u) else gated(act, g, u)
    return cast(Tensor, mlp.down_proj(product))


def llama_rms_norm(norm: Any, hidden_states: Tensor) -> Tensor:
    """Compute the forward of Llama's RMS norm.

    A float64 model uses the module's own forward, whose gradient is rounded to float32 as well.

    Args:
        norm: A module with `weight` and `variance_epsilon`.
        hidden_states: (..., d).
    """
    own = norm.weight.requires_grad or hidden_states.dtype == torch.float64
    if own or _kept_by_autograd(hidden_states):
        return cast(Tensor, norm.own.forward(norm, hidden_states))
    return rms_norm(hidden_states, norm.weight, norm.variance_epsilon)


def _kept_by_autograd(*tensors: Tensor) -> bool:
    """Return whether PyTorch's own operations are to be used: no graph, or a transformed one."""
    nothing = not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors)
    return nothing or transformed()


Forward = Callable[[Any, Tensor], Tensor]

FORWARDS: dict[str, Forward] = {
    f"transformers.models.{model}.modeling_{model}.{name}{kind}": forward
    for kind, forward, names in (
        (
            "MLP",
            gated_mlp,
            "Cohere Gemma Gemma2 Gemma3 Granite Helium Llama Mistral Olmo Olmo2 Qwen2 Qwen3 "
            "SmolLM3 StableLm",
        ),
        (
            "RMSNorm",
            llama_rms_norm,
            "Granite Llama Mistral Mixtral Phi3 Qwen2 Qwen3 SmolLM3",
        ),
    )
    for name in names.split()
    for model in [name.lower()]
}
"""Full name of a class -> the function that replaces its forward; add your model's own."""


def prepare(model: nn.Module) -> None:
    """Let norms, activations and gated MLPs of known classes keep less; outputs stay the same.

    Args:
        model: The model; changed in place, except modules whose instance has its own forward.
    """
    for module in model.modules():
        kind: Any = type(module)
        forward = _forward_for(kind)
        if forward is not None:
            if not (isinstance(module, _Prepared) or "forward" in module.__dict__):
                module.__class__ = _prepared_class(kind, forward)
        elif _is_pure(module) and not module._forward_hooks:
            module.register_forward_hook(_note_output)


def release(model: nn.Module) -> None:
    """Undo `prepare`, and let projections that share an input compute alone.

    Args:
        model: The model; changed in place.
    """
    for module in model.modules():
        ungroup(module)
        module.__dict__.pop("input_group", None)
        for key, hook in list(module._forward_hooks.items()):
            if hook is _note_output:
                del module._forward_hooks[key]
        if isinstance(module, _Prepared) and _Prepared in type(module).__bases__:
            cast(Any, module).__class__ = module.own


class _Prepared(nn.Module):
    """Mixin for the class of a module whose forward is replaced.

    The new forward belongs to the class, not to the instance: `nn.DataParallel` copies the
    attributes of an instance to its replicas, and a forward among them would stay bound to the
    original module.
    """

    own: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copy and pickle through the original class; this one cannot be imported by name."""
        del protocol
        return _unpickled, (self.own,), self.__dict__.copy()


@cache
def _prepared_class(own: Any, forward: Forward) -> Any:
    """Make a subclass that computes `forward(module, x)` and carries the name of its base."""

    @wraps(own.forward)
    def replaced(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return forward(module, *args, **kwargs)

    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    return type(own.__name__, (_Prepared, own), {**names, "own": own, "forward": replaced})


def _unpickled(own: Any) -> Any:
    """Make an empty module, prepared if its class is known here; pickle sets its state next."""
    module, forward = own.__new__(own), _forward_for(own)
    if forward is not None:
        module.__class__ = _prepared_class(own, forward)
    return module


def _forward_for(kind: type[nn.Module]) -> Forward | None:
    return FORWARDS.get(f"{kind.__module__}.{kind.__qualname__}")


def _is_pure(module: nn.Module) -> bool:
    kind = type(module)
    norm = kind.__module__.startswith("transformers.models.") and kind.__name__.endswith(NORMS)
    if norm:  # some encoders' names end like this too: a norm has no children
        return next(module.children(), None) is None
    return kind.__module__ in PURE and not isinstance(module, NOT_NOTED)


def _note_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Note the origin of an output, as a forward hook; not if other hooks may have changed it."""
    if not torch.is_grad_enabled() or transformed():
        return
    alone = len(module._forward_hooks) == 1 and not module._forward_pre_hooks
    if not (alone and len(args) == 1 and "forward" not in module.__dict__):
        return
    in_place = output is args[0]
    if isinstance(output, Tensor) and output.requires_grad and not in_place:
        # with its parameters: autograd raises if one is written to before the backward
        note(output, partial(_forward_of, module), (args[0], *module.parameters(recurse=False)))


def _forward_of(module: nn.Module, x: Tensor, *_parameters: Tensor) -> Tensor:
    return cast(Tensor, module.forward(x))
