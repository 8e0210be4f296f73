"""Storages that a test has opened are closed at its end; Optuna is silent."""

from __future__ import annotations

from typing import Any

import pytest

from fake_trials import OPENED
from rankwright.study.tuning.storage import silence_optuna


@pytest.fixture(autouse=True)
def _silence_optuna() -> Any:
    with silence_optuna(), OPENED:
        yield
