"""Set-up of every test: one thread, no network, no waiting for the disk."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from quick import make_quick
from saved_models import labelled_rows, save_bert, save_llama, write_rows

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what is costly to make run in one process.

    Those of the contract share a run a method, those of two processes all that the two made.
    """
    for item in items:
        if "test_two_processes_are_one" in item.name and "contract" in item.nodeid:
            item.add_marker(pytest.mark.xdist_group("two processes"))
        elif "contract/test_contract.py" in item.nodeid and isinstance(item, pytest.Function):
            name = getattr(item, "callspec", None) and item.callspec.params.get("name")
            item.add_marker(pytest.mark.xdist_group(f"contract of {name}"))


@pytest.fixture(scope="session", autouse=True)
def quick() -> Iterator[None]:
    """See `quick.py`."""
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        yield


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pretrained BERT with its tokenizer."""
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pretrained Llama with its tokenizer."""
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows with the columns `sentence` and `topic`, as JSON lines."""
    return write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", labelled_rows())
