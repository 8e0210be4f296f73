"""Modules that an adapter has to store in full because no other file contains their weights.

A user who loads an adapter has two files, the base model's and the adapter's. A module that is
missing from the base model's file, such as a new head or the pooler that masked language models
lack, is initialised at random, and the same numbers cannot be drawn again: factors on it would
change an unknown weight. Such a module is therefore trained in full and saved with the adapter
(PEFT's `modules_to_save`), or the model is refused.

`from_pretrained` marks every parameter that it fills from a file. A copy of the model loses the
marks; every module that may be new then counts as new.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable
from typing import Any

from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from rankwright.errors import MethodError, did_you_mean

FILLED = "_is_hf_initialized"
"""Attribute that transformers sets on parameters filled from a file."""
POOLER = "pooler"
"""The name in transformers of the module between body and head; many checkpoints lack it."""
NEW_HEADS = (
    "Classification",
    "QuestionAnswering",
    "MultipleChoice",
    "NextSentencePrediction",
    "DoubleHeads",
)
"""Substrings of model class names whose heads are new for every task and always trained in full."""


def whole_modules(
    model: nn.Module, named: Iterable[str] = (), missing_keys: Collection[str] | None = None
) -> list[str]:
    """Return the full names of the modules to train in full, none inside another.

    Args:
        model: The base model.
        named: Full names that are always included.
        missing_keys: Parameters that no file contains; None if unknown (`missing_parameters`).

    Raises:
        MethodError: A parameter of the pretrained body is in no file and in none of the modules.
    """
    found = [*named, *new_heads(model)]
    if missing_keys is None and getattr(model, "name_or_path", None):
        found += [*_outside_bodies(model), *_poolers(model)]
    found = outermost(found)
    absent = [key for key in missing_keys or () if not _is_inside(key, found)]
    return outermost([*found, *_homes(model, absent)])


def new_heads(model: nn.Module) -> list[str]:
    """Return the full names of modules outside the pretrained body, for classes of `NEW_HEADS`."""
    if not any(task in type(model).__name__ for task in NEW_HEADS):
        return []
    return _outside_bodies(model)


def missing_parameters(model: nn.Module, given: Iterable[str] | None) -> list[str] | None:
    """Return the names of the parameters that no file contains; None if that cannot be known.

    Args:
        model: The base model.
        given: The missing and mismatched keys of its loading report; None to use the marks that
            transformers leaves on the parameters.

    Raises:
        MethodError: A given key names no parameter and no buffer.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if given is not None:
        keys = list(given)
        known = {*parameters, *(name for name, _ in model.named_buffers())}
        for key in keys:
            if key not in known:
                raise MethodError(
                    f"missing_keys: {type(model).__name__} has no parameter {key!r}"
                    f"{did_you_mean(key, known)}; expected keys of its loading report "
                    "(from_pretrained(..., output_loading_info=True))"
                )
        return sorted(key for key in keys if key in parameters)
    if not any(hasattr(parameter, FILLED) for parameter in parameters.values()):
        return None
    return sorted(name for name, p in parameters.items() if _is_new(model, name, p))


def matching(model: nn.Module, ends: Iterable[str]) -> list[str]:
    """Return the full names of modules with a given name ending, as in PEFT's `modules_to_save`.

    Args:
        model: The base model.
        ends: Endings of module names.

    Raises:
        MethodError: An ending matches no module.
    """
    names = [name for name, _ in model.named_modules() if name]
    found = []
    for end in ends:
        matches = [name for name in names if name.endswith(end)]
        if not matches:
            last = {name.rpartition(".")[2] for name in names}
            raise MethodError(
                f"modules_to_save: no module's name ends in {end!r}{did_you_mean(end, last)}"
            )
        found += matches
    return found


def outermost(names: Iterable[str]) -> list[str]:
    """Drop duplicates, and modules inside another named module."""
    unique = dict.fromkeys(names)
    return [name for name in unique if not _is_inside(name, unique)]


def whole_notice(model: PeftModel, missing_keys: Collection[str]) -> str:
    """Return one line that names the modules trained in full because no file contains them."""
    modules = model.get_base_model().named_modules()
    wrapped = [name for name, module in modules if isinstance(module, ModulesToSaveWrapper)]
    found = [name for name in wrapped if any(_is_inside(key, {name}) for key in missing_keys)]
    return (
        f"not in the model's file, so trained whole and saved with the adapter: {', '.join(found)}"
    )


def name_of(model: nn.Module, getter: str) -> str | None:
    """Return the full name of the module that a getter returns, or None.

    Args:
        model: The base model.
        getter: Name of a method such as `get_output_embeddings`.
    """
    try:
        wanted = getattr(model, getter)()
    except (AttributeError, NotImplementedError):  # image and audio models
        return None
    return next((name for name, module in model.named_modules() if module is wanted), None)


def _is_inside(name: str, modules: Container[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in modules for end in range(1, len(parts)))


def _bodies(model: nn.Module) -> list[str]:
    """Return the full names of the pretrained bodies of a model; [""] if it is one itself."""
    if not hasattr(model, "base_model_prefix"):
        return outermost(_pretrained(model))
    named = [name for name, _ in model.named_modules() if name == model.base_model_prefix != ""]
    return outermost([*named, *_pretrained(model)]) or [""]


def _pretrained(model: nn.Module) -> list[str]:
    """Return the full names of the transformers models inside a model."""
    modules = model.named_modules()
    return [name for name, module in modules if name and hasattr(module, "base_model_prefix")]


def _outside_bodies(model: nn.Module) -> list[str]:
    """Return the full names of modules outside bodies, word embeddings and the LM head.

    Modules without parameters are left out.
    """
    bodies = _bodies(model)
    words = _words(model, bodies)
    found: list[str] = []

    def visit(name: str) -> None:
        for child_name, child in model.get_submodule(name).named_children():
            full = f"{name}.{child_name}" if name else child_name
            if full in bodies or full in words or next(child.parameters(), None) is None:
                continue
            inside = any(_is_inside(kept, [full]) for kept in (*bodies, *words))
            if inside or not _is_called(child):
                visit(full)
            else:
                found.append(full)

    if bodies not in ([], [""]):  # without a body a head cannot be told from the rest
        visit("")
    return found


def _words(model: nn.Module, bodies: list[str]) -> list[str]:
    """Return the full names of the word embeddings and of the LM head.

    The head includes the layers between the body and the output embeddings.
    """
    embeddings, head = (name_of(model, f"get_{end}_embeddings") for end in ("input", "output"))
    around = (head or "").rpartition(".")[0]
    if around and not any(_is_inside(body, [around]) for body in bodies):
        head = around
    return [name for name in (embeddings, head) if name]


def _is_called(module: nn.Module) -> bool:
    """Return whether a module has a forward.

    PEFT cannot train a list of modules in full, only each module in it.
    """
    return type(module).forward is not nn.Module.forward


def _poolers(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == POOLER and next(module.parameters(), None) is not None
    ]


def _homes(model: nn.Module, absent: list[str]) -> list[str]:
    """Return the module to train in full for each parameter that no file contains.

    Outside a body this is the largest module whose parameters are all absent, or else the
    parameter's own module; inside a body it is the pooler.

    Raises:
        MethodError: A parameter belongs to no such module.
    """
    bodies, keys = _bodies(model), set(absent)
    homes = {
        key: _up_to_pooler(key) if _is_in_body(key, bodies) else _largest(model, key, keys)
        for key in absent
    }
    lost = [key for key, home in homes.items() if not home]
    if lost:
        raise _in_no_file(model, lost)
    return list(homes.values())


def _is_in_body(key: str, bodies: list[str]) -> bool:
    return bodies == [""] or _is_inside(key, bodies)


def _largest(model: nn.Module, key: str, absent: Container[str]) -> str:
    """Return the largest module around a parameter with only absent parameters, or else its own."""
    name = home = key.rpartition(".")[0]
    while parent := name.rpartition(".")[0]:
        inside = (key for key, _ in model.get_submodule(parent).named_parameters(prefix=parent))
        if not all(key in absent for key in inside):
            break
        name = parent
        if _is_called(model.get_submodule(name)):
            home = name
    return home


def _up_to_pooler(key: str) -> str:
    parts = key.split(".")
    return ".".join(parts[: parts.index(POOLER) + 1]) if POOLER in parts else ""


def _is_new(model: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter has no mark and is therefore in no file."""
    if hasattr(parameter, FILLED) or parameter.is_meta:  # meta: offloaded
        return False
    quantised = getattr(model, "hf_quantizer", None) is not None
    if quantised and not _up_to_pooler(name) and _is_in_body(name, _bodies(model)):
        return False  # some quantisers replace the weights of the body after loading
    ignored = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    if any(re.search(pattern, name) for pattern in ignored):
        return False
    return not _is_resized(model, parameter)


def _is_resized(model: nn.Module, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is in an LM head made by `resize_token_embeddings`.

    PEFT saves such a head by itself.
    """
    name = name_of(model, "get_output_embeddings")
    if name is None or all(p is not parameter for p in model.get_submodule(name).parameters()):
        return False
    config: Any = model.config
    try:
        stored = type(config).from_pretrained(model.name_or_path)
    except (OSError, ValueError):
        return False
    return bool(stored.get_text_config().vocab_size != config.get_text_config().vocab_size)


def _in_no_file(model: nn.Module, keys: list[str]) -> MethodError:
    shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    place = f" {model.name_or_path!r}" if getattr(model, "name_or_path", "") else ""
    return MethodError(
        f"{type(model).__name__}: the file{place} that it was loaded from has no {shown}. They "
        "are initialised at random, and the adapter would not contain them. Load a file that has "
        "them, or save the whole model (model.save_pretrained(folder)) and load it from there, or "
        "name their modules in modules_to_save"
    )
