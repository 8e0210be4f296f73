"""Put PEFT's adapter on a model, check what PEFT does not, and remove it again after an error."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from rankwright.errors import MethodError
from rankwright.kernels.blocks import release
from rankwright.peft_layers.experts import advice
from rankwright.peft_layers.rank_patterns import check_patterns, resolve_patterns, target_name

ADAPTER = "default"
"""Name of the trained adapter."""

_TASK_TYPES = {
    "ForSequenceClassification": TaskType.SEQ_CLS,
    "ForTokenClassification": TaskType.TOKEN_CLS,
    "ForQuestionAnswering": TaskType.QUESTION_ANS,
    "ForCausalLM": TaskType.CAUSAL_LM,
    "ForConditionalGeneration": TaskType.SEQ_2_SEQ_LM,
}


def refuse_adapted(model: nn.Module, method: str) -> None:
    """Refuse a model that already carries an adapter.

    Args:
        model: The base model.
        method: Name of the method, for the message.

    Raises:
        MethodError: It carries one.
    """
    if isinstance(model, PeftModel) or any(isinstance(m, LoraLayer) for m in model.modules()):
        raise MethodError(
            f"{type(model).__name__} already carries an adapter; apply {method} to the base "
            "model (PeftModel.unload() returns it)"
        )


def task_type(model: nn.Module) -> TaskType | None:
    """Return PEFT's task type for the model; None if PEFT's wrapper for it would not fit.

    PEFT's wrappers pass on token ids, but speech and image models have classes with the same
    endings.
    """
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        return None
    name = type(model).__name__
    return next((kind for suffix, kind in _TASK_TYPES.items() if suffix in name), None)


def inject(
    model: nn.Module, config: LoraConfig, method: str, target_modules: str | list[str]
) -> PeftModel:
    """Put an adapter on a model with `get_peft_model`.

    Args:
        model: The base model; changed in place.
        config: The adapter's configuration.
        method: Name of the method, for messages.
        target_modules: The user's `target_modules`, for messages; PEFT expands them in `config`.

    Raises:
        MethodError: PEFT refuses the model or the configuration.
    """
    linears = sorted(
        {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    )
    try:
        with _without_warnings():
            adapted = get_peft_model(model, config, adapter_name=ADAPTER)
    except (TypeError, ValueError) as error:
        if ParamWrapper.__name__ in str(error):  # PEFT refuses DoRA and dropout there
            raise MethodError(
                f"{method} does not work on the experts of {type(model).__name__}, which "
                f"are parameters and not linear layers ({error}); {advice(model)}"
            ) from error
        raise MethodError(
            f"{method} cannot be applied to {type(model).__name__} with target_modules="
            f"{target_modules!r}: {error} Linear modules of this model end in: "
            f"{', '.join(linears)}."
        ) from error
    if isinstance(config.target_modules, set):  # PEFT lists the heads as well, which are no targets
        config.target_modules -= {*(config.modules_to_save or ())}
    return adapted


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress PEFT's warnings about settings that are checked here, or that it corrects itself."""
    with warnings.catch_warnings():
        # a pattern that matches nothing is an error here (check_patterns)
        warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern.*")
        # PEFT corrects the setting for a Conv1D, and warns at every layer
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        yield


@contextlib.contextmanager
def restored_on_error(model: nn.Module) -> Iterator[None]:
    """Restore the model if an error is raised inside, so that another adapter can be put on."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    try:
        yield
    except Exception:
        release(model)
        model.__dict__.pop("peft_config", None)  # set on the base model by PEFT
        _restore_bases(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        raise


def _restore_bases(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, MultiheadAttention):  # PEFT has taken its parameters apart
            base = child.unload_and_optionally_merge_module(
                merge=False, safe_merge=False, adapter_names=None
            )
            setattr(module, name, base)
        elif isinstance(child, LoraLayer):
            setattr(module, name, child.get_base_layer())
        elif isinstance(child, ModulesToSaveWrapper):
            setattr(module, name, child.original_module)
        else:
            _restore_bases(child)


def check_attention(layers: Mapping[str, LoraLayer]) -> None:
    """Refuse layers whose base weight PEFT overwrites in every forward.

    Raises:
        MethodError: A layer is a `torch.nn.MultiheadAttention`.
    """
    for name, layer in layers.items():
        if isinstance(layer, MultiheadAttention):
            raise MethodError(
                f"{name} is a torch.nn.MultiheadAttention, for which PEFT adds the update to the "
                "base weight before every forward and subtracts it afterwards: the base drifts by "
                "the rounding, 2.5 % after 200 steps in bfloat16; leave it out of target_modules"
            )


def settle_patterns(
    model: PeftModel,
    layers: Mapping[str, LoraLayer],
    rank_pattern: Iterable[str],
    alpha_pattern: Iterable[str],
) -> None:
    """Check the user's patterns, and replace them with one entry per module.

    Args:
        model: The adapted model; its configuration is changed.
        layers: Its adapted layers by name.
        rank_pattern: Keys of the user's `rank_pattern`.
        alpha_pattern: Keys of the user's `alpha_pattern`.

    Raises:
        MethodError: A pattern matches no module.
    """
    targets = [target_name(name, layer) for name, layer in layers.items()]
    check_patterns("rank_pattern", [*rank_pattern], targets)
    check_patterns("alpha_pattern", [*alpha_pattern], targets)
    resolve_patterns(model.peft_config[ADAPTER], ADAPTER, dict(layers))


def check_ranks(layers: Mapping[str, LoraLayer]) -> None:
    """Refuse a rank above the number of rows or columns of its layer's weight.

    Raises:
        MethodError: A rank is too large.
    """
    for name, layer in layers.items():
        rows, columns = _matrix_shape(layer)
        largest = min(rows, columns)
        if layer.r[ADAPTER] > largest:
            raise MethodError(
                f"rank {layer.r[ADAPTER]} is larger than the layer {target_name(name, layer)} "
                f"({rows} x {columns}); choose r <= {largest}, or give "
                "this layer its own rank with rank_pattern"
            )


def _matrix_shape(layer: LoraLayer) -> tuple[int, int]:
    """Return (out_features, in_features); the rows of a convolution are its flattened kernels."""
    base = layer.get_base_layer()
    if isinstance(base, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return base.out_channels, base.weight[0].numel()
    return layer.out_features, layer.in_features
