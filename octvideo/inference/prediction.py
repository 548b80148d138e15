"""Predictions: classes with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Prediction", "top_predictions"]


class Prediction(NamedTuple):
    """A class and its probability, 0 to 1."""

    label: str
    score: float


def top_predictions(scores: np.ndarray, classes: Sequence[str], top_k: int) -> list[Prediction]:
    """Return the ``top_k`` best classes by scores ``(K,)``, best first; all if there are fewer."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Prediction(classes[index], float(scores[index])) for index in order]
