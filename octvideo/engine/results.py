"""The result files of a test: metrics, predictions and the confusion matrix."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octvideo.data import VideoIndex
from octvideo.data.lists import write_lines
from octvideo.engine.metrics import (
    confusion_matrix,
    draw_confusion,
    per_class_accuracy,
    top_k_accuracy,
    write_confusion,
)
from octvideo.engine.tester import TestResult
from octvideo.files import atomic_write, write_bytes

__all__ = ["accuracy", "labelled", "summarize", "write_details", "write_metrics"]

_MAX_CONFUSED = 5000  # classes of the largest confusion matrix: 200 MB of memory, and a file of 50 MB


def labelled(result: TestResult, index: VideoIndex) -> tuple[Tensor, Tensor]:
    """Return scores ``(n, classes)`` and labels ``(n,)`` of the scored videos that have a label."""
    labels = torch.from_numpy(index.labels)[result.indices]
    known = labels >= 0
    return result.scores[known], labels[known]


def accuracy(result: TestResult, index: VideoIndex) -> dict[str, Any]:
    """Return ``top1`` and ``top5`` in percent (None where no label is known), ``num_videos`` and ``num_failed``."""
    scores, labels = labelled(result, index)
    top1, top5 = (top_k_accuracy(scores, labels, k) if len(labels) else None for k in (1, 5))
    return {"top1": top1, "top5": top5, "num_videos": len(index), "num_failed": len(result.failed)}


def summarize(
    result: TestResult, index: VideoIndex, classes: Sequence[str], num_failed_train: int = 0
) -> dict[str, Any]:
    """Return the content of ``metrics.json``; ``num_failed_train`` counts the videos that training could not read."""
    metrics = {**accuracy(result, index), "num_failed_train": num_failed_train}
    scores, labels = labelled(result, index)
    if len(labels):
        metrics["per_class"] = dict(zip(classes, per_class_accuracy(scores.argmax(1), labels, len(classes))))
    metrics["failed"] = [failure._asdict() for failure in result.failed]
    return metrics


def write_metrics(metrics: dict[str, Any], folder: Path) -> None:
    """Write ``metrics.json``."""
    write_lines(folder / "metrics.json", [json.dumps(metrics, indent=1)])


def write_details(
    result: TestResult, index: VideoIndex, classes: Sequence[str], folder: Path, say: Callable[[str], None]
) -> None:
    """Write ``predictions.csv``, ``confusion_matrix.csv`` and its picture, in this order.

    A picture that cannot be drawn is only a warning, for which ``say`` is called.

    Raises:
        UserError: a file cannot be written; the files before it are written.
    """
    _write_predictions(result, index, classes, folder / "predictions.csv")
    scores, labels = labelled(result, index)
    if not len(labels):
        return
    if len(classes) > _MAX_CONFUSED:
        say(f"warning: no confusion matrix: {len(classes)} classes are more than {_MAX_CONFUSED}")
        return
    confusion = confusion_matrix(scores.argmax(1), labels, len(classes))
    write_confusion(confusion, classes, folder / "confusion_matrix.csv")
    try:
        picture = draw_confusion(confusion, classes)
    except Exception as error:  # matplotlib raises many kinds: fonts, the user's settings, memory
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"warning: confusion_matrix.png cannot be drawn ({reason}); its numbers are in confusion_matrix.csv")
    else:
        write_bytes(folder / "confusion_matrix.png", picture)


def _write_predictions(result: TestResult, index: VideoIndex, classes: Sequence[str], path: Path) -> None:
    """Write a row per video: path, label, the five best classes with their probabilities, and why reading failed."""
    labels = torch.from_numpy(index.labels)[result.indices].tolist()
    best = min(5, result.scores.shape[1])
    with (
        atomic_write(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        header = [name for rank in range(1, best + 1) for name in (f"prediction{rank}", f"score{rank}")]
        writer.writerow(["path", "label", *header, "error"])
        for number, label, row in zip(result.indices.tolist(), labels, result.scores):
            values, order = row.topk(best)
            cells = [cell for v, o in zip(values.tolist(), order.tolist()) for cell in (classes[o], f"{v:.6f}")]
            writer.writerow([index.path(number), classes[label] if label >= 0 else "", *cells, ""])
        for failure in result.failed:
            writer.writerow([failure.path, "", *[""] * (2 * best), failure.reason])
