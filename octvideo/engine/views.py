"""Average the scores of a video's views."""

from __future__ import annotations

from torch import Tensor

__all__ = ["average_views"]


def average_views(logits: Tensor, average: str) -> Tensor:
    """Return the class probabilities of one video, whose sum is 1: float ``(classes,)``.

    Args:
        logits: of its views, ``(V, classes)``.
        average: ``"softmax"`` averages the probabilities over the views, ``"logits"`` the logits before the softmax.
    """
    logits = logits.float()
    return logits.softmax(1).mean(0) if average == "softmax" else logits.mean(0).softmax(0)
