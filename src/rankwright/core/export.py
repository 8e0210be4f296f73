"""The slot `export`: how a trained adapter is saved, and the other forms that it can take.

`rankwright train` saves an adapter by `Export.save`, and `rankwright eval` and `export` read it by
`Export.load`. `rankwright.training.export` asks `forms` before it writes one, and so do model cards
and the tables of methods. The defaults are those of a LoRA adapter that PEFT saves and loads by
itself. A method whose adapter is something else fills the slot with a subclass:

    class SharedPrompt(Export):
        side_files = ("prompt.safetensors",)
        loads_with_peft = False

        def forms(self):
            return {**super().forms(), "merged": refused("a prompt is not part of a weight")}

        def save_side_files(self, model, adapter_name, folder): ...
        def load_side_files(self, model, adapter_name, folder): ...

Reasons of the model in hand, such as a quantised base or a merged layer, are not the method's:
`rankwright.training.export` finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from rankwright.errors import MethodError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

FormName = Literal["adapter", "lora", "merged"]
FORM_NAMES: tuple[FormName, ...] = get_args(FormName)
"""The adapter as trained, a plain LoRA adapter, and the base model with the adapter merged in."""

Accuracy = Literal["exact", "approximate", "refused"]


@dataclass(frozen=True)
class Form:
    """Whether a trained adapter can be written in one form.

    Attributes:
        accuracy: "exact" if what is written computes what was trained, up to rounding,
            "approximate" if it does not, "refused" if it cannot be written.
        reason: A plain sentence without a full stop; empty if there is nothing to explain.
    """

    accuracy: Accuracy
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.accuracy}: {self.reason}" if self.reason else self.accuracy


EXACT = Form("exact")


def approximate(reason: str) -> Form:
    """Return a form that loses something, with the reason."""
    return Form("approximate", reason)


def refused(reason: str) -> Form:
    """Return a form that cannot be written, with the reason."""
    return Form("refused", reason)


@dataclass(frozen=True)
class Export:
    """How an adapter is saved, and its other forms. The default is a LoRA adapter of PEFT.

    Attributes:
        artefact: The saved adapter in a few words, for tables.
    """

    artefact: str = "LoRA adapter of rank r"

    peft_type: ClassVar[str] = "LORA"
    """Type of the adapter in `adapter_config.json`; one of PEFT's, or one registered with it."""

    side_files: ClassVar[tuple[str, ...]] = ()
    """Names of the files that `save_side_files` writes and `load_side_files` reads."""

    loads_with_peft: ClassVar[bool] = True
    """Whether `PeftModel.from_pretrained` alone gives the trained model."""

    def forms(self) -> dict[str, Form]:
        """Return the accuracy of every form, by name.

        A plain LoRA of a smaller rank than the adapter's is approximate in any case.
        """
        return dict.fromkeys(FORM_NAMES, EXACT)

    def form(self, name: str) -> Form:
        """Return the form called `name`; a form that `forms` leaves out is refused."""
        return self.forms().get(name, refused(f"the method has no {name} form"))

    # Saving and loading the adapter -----------------------------------------------------------

    def save(self, model: PeftModel, adapter_name: str, folder: Path) -> None:
        """Write an adapter with its side files.

        A trainer's checkpoints and `save_model` write PEFT's files of the model in training, and
        the side files.

        Args:
            model: The adapted model.
            adapter_name: Name of the adapter.
            folder: The folder to write; created if missing.
        """
        from rankwright.peft_layers.adapter_file import save_adapter  # imports PEFT

        save_adapter(model, folder, adapter_name)
        self.save_side_files(model, adapter_name, folder)

    def load(self, base: nn.Module, folder: Path) -> PeftModel:
        """Put a saved adapter with its side files on a base model.

        Args:
            base: The base model; modified in place.
            folder: Holds `adapter_config.json`, the weights and the side files.

        Raises:
            MethodError: A side file is missing, or does not fit the base model.
        """
        from peft import PeftModel

        model = PeftModel.from_pretrained(base, str(folder))
        for name in self.side_files:
            if not (folder / name).is_file():
                raise MethodError(f"{folder} lacks {name}, without which its adapter is not whole")
        self.load_side_files(model, model.active_adapter, folder)
        return model

    def save_side_files(self, model: PeftModel, adapter_name: str, folder: Path) -> None:
        """Write the side files into the folder of the adapter; none by default."""

    def load_side_files(self, model: PeftModel, adapter_name: str, folder: Path) -> None:
        """Read the side files of an adapter that PEFT has just loaded.

        A file may state the base model that it belongs to.

        Raises:
            MethodError: A file does not fit the model.
        """

    # Writing other forms -----------------------------------------------------------------------

    def lora_factors(
        self, model: PeftModel, adapter_name: str, rank: int | None, inputs: Mapping[str, Tensor]
    ) -> Mapping[str, tuple[Tensor, Tensor]] | None:
        """Return the factors of a plain LoRA that stands for the adapter.

        Args:
            model: The adapted model.
            adapter_name: Name of the adapter.
            rank: The largest rank that the user allows; None for any.
            inputs: A batch of inputs, such as a router needs to find its mean gates.

        Returns:
            Module name -> `A` `(rank, d_in)` and `B` `(d_out, rank)` of its change `B A`; None for
            the best approximation of the change of every LoRA or DoRA layer.
        """
        del model, adapter_name, rank, inputs
        return None

    def merge(self, model: PeftModel, adapter_name: str) -> nn.Module | None:
        """Return a model of its own with the adapter merged in.

        Tensors of `model` may be shared but not changed. None: `W + dW` of every LoRA or DoRA
        layer, formed in float64.
        """
        del model, adapter_name
        return None

    def load_base(self, base: Any, **options: Any) -> nn.Module:
        """Load a base model anew from its file, to compare it with the one in hand.

        Args:
            base: The base model in hand, of `transformers`.
            options: Further arguments of `from_pretrained`.

        Raises:
            OSError: The file is not found.
        """
        model: nn.Module = type(base).from_pretrained(base.name_or_path, **options)
        return model


@dataclass(frozen=True)
class DoraExport(Export):
    """A DoRA adapter of PEFT."""

    artefact: str = "DoRA adapter of rank r"

    def forms(self) -> dict[str, Form]:
        """See `Export.forms`."""
        full_rank = "the change of a DoRA layer has full rank in general and is truncated"
        return {**super().forms(), "lora": approximate(full_rank)}


@dataclass(frozen=True)
class WholeModulesExport(Export):
    """An adapter without factors: modules that are trained in full, as PEFT saves them."""

    artefact: str = "adapter of whole modules"

    def forms(self) -> dict[str, Form]:
        """See `Export.forms`."""
        no_factors = "the adapter holds whole modules and no factors"
        return {**super().forms(), "lora": refused(no_factors)}
