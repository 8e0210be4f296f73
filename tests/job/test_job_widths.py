"""A rank that no layer can have is refused from the config of the model alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankwright.errors import MethodError
from rankwright.job import TrainConfig, train
from rankwright.job.widths import check_rank
from rankwright.methods import LoRA


def write(folder: Path, **config: object) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_larger_than_every_size(tmp_path: Path) -> None:
    inner = {"hidden_size": 64, "vocab_size": 9999, "max_position_embeddings": 4096}
    model = write(tmp_path, text_config=inner, sizes=[32, 128], pad_token_id=5000, use_cache=True)
    check_rank(model, 128)
    with pytest.raises(MethodError, match=r"rank r = 129 .* no size in its config is above 128"):
        check_rank(model, 129)


@pytest.mark.parametrize("text", [None, "", "[]", "null", "{}"])
def test_sizes_missing_from_the_config_are_left_to_the_layers(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    check_rank(str(tmp_path), 5000)
    check_rank("owner/name", 5000)


def test_before_data_and_model_are_read(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankwright.job.run.read_data", lambda *_: pytest.fail("data were read"))
    config = TrainConfig(model=str(bert_folder), task="stdlib-docs", output=str(tmp_path / "run"))
    with pytest.raises(MethodError, match=r"rank r = 5000 is larger than every layer"):
        train(config, LoRA(r=5000))
    assert not (tmp_path / "run").exists()
