"""From the views of a video to its scores."""

from __future__ import annotations

from torch import Tensor

__all__ = ["average_views"]


def average_views(logits: Tensor, average: str) -> Tensor:
    """The probabilities of one video's classes, whose sum is 1: float ``(classes,)``.

    Args:
        logits: of its views, ``(V, classes)``.
        average: what is averaged over the views: ``"softmax"`` probabilities, or ``"logits"`` before the softmax.
    """
    logits = logits.float()
    return logits.softmax(1).mean(0) if average == "softmax" else logits.mean(0).softmax(0)
