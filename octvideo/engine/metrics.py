"""Accuracy from scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["confusion_matrix", "per_class_accuracy", "save_confusion", "top_k_accuracy"]


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Percent of rows whose label is among the ``k`` highest scores: ``(N, C)``, ``(N,)``. NaN without rows."""
    if not len(labels):
        return float("nan")
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return 100.0 * (best == labels[:, None]).any(1).double().mean().item()


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    """Counts ``(C, C)``: rows are labels, columns predictions."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes).numpy()


def per_class_accuracy(confusion: np.ndarray) -> list[float | None]:
    """Percent right of each class, None for a class without videos."""
    totals = confusion.sum(1)
    return [100.0 * float(confusion[i, i] / total) if (total := totals[i]) else None for i in range(len(confusion))]


def save_confusion(confusion: np.ndarray, classes: Sequence[str], folder: Path) -> None:
    """Writes ``confusion_matrix.csv`` and, as a picture, ``confusion_matrix.png``."""
    import csv

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with (folder / "confusion_matrix.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label \\ predicted", *classes])
        writer.writerows([name, *row.tolist()] for name, row in zip(classes, confusion))
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    few = len(classes) <= 40
    edge = max(4.5, 0.42 * len(classes)) if few else 14
    figure, axes = plt.subplots(figsize=(edge + 1.5, edge), layout="constrained")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="label")
    if few:
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        for row, column in zip(*np.nonzero(confusion)):
            shade = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=shade, fontsize=8)
    figure.colorbar(image, label="share of the label's videos", shrink=0.8)
    figure.savefig(folder / "confusion_matrix.png", dpi=110)
    plt.close(figure)
