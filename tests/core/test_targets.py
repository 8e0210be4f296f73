"""Counting the targets that a loss is a mean over."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rankwright.core.targets import IGNORED, count_targets, shifts_labels, weigh
from uneven import KINDS

LABELS = torch.tensor([[1, 2, IGNORED, 0], [IGNORED, 1, IGNORED, IGNORED]])


def model(name: str, **config: Any) -> nn.Module:
    """A module of a class of this name."""
    made: nn.Module = type(name, (nn.Module,), {})()
    made.config = types.SimpleNamespace(**config)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize(
    ("name", "inputs", "expected"),
    [
        ("token classes", {"labels": LABELS}, 4),
        ("masked", {"labels": LABELS}, 4),
        ("sequence to sequence", {"labels": LABELS}, 4),
        ("causal", {"labels": LABELS}, 3),
        ("causal by another name", {"labels": LABELS}, 3),
        ("causal", {"labels": LABELS, "shift_labels": LABELS}, 4),
        ("token classes of a decoder", {"labels": LABELS}, 4),
        ("classes", {"labels": torch.tensor([0, IGNORED, 1])}, 2),
        ("numbers", {"labels": torch.tensor([0.5, -100.0])}, 2),
        ("several classes", {"labels": torch.zeros(3, 5)}, 3),
        ("causal", {"input_ids": LABELS}, 2),
        ("causal", (torch.zeros(()), [torch.zeros(5, 1)]), 5),
        ("causal", None, 1),
    ],
)
def test_targets(name: str, inputs: Any, expected: int) -> None:
    assert int(count_targets(KINDS[name].build(), inputs)) == expected


def test_answers_within_the_row_are_targets() -> None:
    inputs = {
        "input_ids": torch.zeros(3, 8),
        "start_positions": torch.tensor([0, 8, 7]),
        "end_positions": torch.tensor([0, 9, 8]),
    }
    assert int(count_targets(KINDS["answers"].build(), inputs)) == 3


def test_other_heads() -> None:
    maps = torch.tensor([[[0, 255], [1, IGNORED]]])
    segmentation = model("SegformerForSemanticSegmentation", semantic_loss_ignore_index=255)
    assert int(count_targets(segmentation, {"labels": maps})) == 3
    assert int(count_targets(model("Wav2Vec2ForCTC"), {"labels": LABELS})) == 2


@pytest.mark.parametrize("name", ["XLNetLMHeadModel", "BertForPreTraining", "MyModel"])
def test_models_that_score_a_label_in_its_place(name: str) -> None:
    assert not shifts_labels(model(name))


def test_an_empty_batch_has_no_part_and_no_gradient() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = nn.functional.cross_entropy(logits, torch.tensor([IGNORED, IGNORED]))
    assert torch.isnan(loss)
    part = weigh(loss, torch.tensor(0), torch.tensor(4))
    part.backward()
    gradient = logits.grad
    assert part == 0
    assert isinstance(gradient, Tensor)
    assert torch.equal(gradient, torch.zeros(2, 3))
