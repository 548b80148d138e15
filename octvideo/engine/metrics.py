"""Accuracy from scores."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from octvideo.files import atomic_write
from octvideo.plotting import letters, shortened, to_png

__all__ = [
    "confusion_matrix",
    "draw_confusion",
    "mean_loss",
    "per_class_accuracy",
    "top_k_accuracy",
    "wilson_interval",
    "write_confusion",
]

_LONGEST = 28  # letters of a name in a picture: longer ones leave no place for the matrix


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Return the percentage of rows of ``scores (N, C)`` whose label is among the ``k`` highest; NaN without rows."""
    if not len(labels):
        return float("nan")
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return 100.0 * (best == labels[:, None]).any(1).double().mean().item()


def mean_loss(scores: Tensor, labels: Tensor) -> float:
    """Return the mean cross entropy of probabilities ``(N, C)``; NaN without rows."""
    if not len(labels):
        return float("nan")
    return F.nll_loss(scores.clamp(min=1e-12).log(), labels).item()


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, in percent (Wilson's score interval).

    It holds for few videos and at 0 and 100 % too: 9 of 9 right ones are 70 to 100 %.
    """
    z = 1.959964  # of a normal distribution, 95 % are within this many standard deviations
    share, spread = correct / total, z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt((share * (1 - share) + spread / 4) / total)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def per_class_accuracy(predicted: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """Return the accuracy of each class in percent; None for a class without videos."""
    totals = torch.bincount(labels, minlength=classes).tolist()
    correct = torch.bincount(labels[predicted == labels], minlength=classes).tolist()
    return [100.0 * hits / total if total else None for hits, total in zip(correct, totals)]


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    """Return counts ``(C, C)``: rows are labels, columns predictions."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes).numpy()


def write_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Write the matrix as a CSV file.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label \\ predicted", *classes])
        writer.writerows([name, *row.tolist()] for name, row in zip(classes, confusion))


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> bytes:
    """Return a picture of the matrix as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    few = len(classes) <= 40
    edge = max(4.5, 0.42 * len(classes)) if few else 14
    with letters(classes):
        figure, axes = plt.subplots(figsize=(edge + 1.5, edge), layout="constrained")
        try:
            image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
            axes.set(xlabel="predicted", ylabel="label")
            if few:
                names = [shortened(name, _LONGEST) for name in classes]
                axes.set_xticks(range(len(classes)), names, rotation=60, ha="right")
                axes.set_yticks(range(len(classes)), names)
                for row, column in zip(*np.nonzero(confusion)):
                    shade = "white" if share[row, column] > 0.5 else "black"
                    count = str(confusion[row, column])
                    axes.text(column, row, count, ha="center", va="center", color=shade, fontsize=8)
            figure.colorbar(image, label="share of the label's videos", shrink=0.8)
            return to_png(figure)
        finally:
            plt.close(figure)
