"""Testing: every view of every video, every video once, however many processes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.data import Failure, VideoIndex, VideoViews, normalize_clips
from octvideo.data.dataset import IN_A_ROW, none_is_read
from octvideo.engine.distributed import World
from octvideo.engine.metrics import confusion_matrix, per_class_accuracy, save_confusion, top_k_accuracy
from octvideo.errors import UserError

__all__ = ["TestResult", "check_failures", "score_views", "test", "write_result"]


@torch.inference_mode()
def score_views(
    model: nn.Module,
    frames: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    max_views: int,
    average: str = "softmax",
) -> Tensor:
    """Scores of one video, averaged over its views: float ``(classes,)`` on the CPU.

    Args:
        model: in evaluation mode.
        frames: ``(V, T, H, W, 3)`` uint8.
        mean, std: of the frames.
        device: of the network.
        max_views: views that are forwarded at once.
        average: of ``"softmax"`` probabilities, or of ``"logits"``.
    """
    scores = []
    for part in frames.split(max_views):
        logits = model(normalize_clips(part.to(device), mean, std)).float()
        scores.append(logits.softmax(1) if average == "softmax" else logits)
    return torch.cat(scores).mean(0).cpu()


@dataclass
class TestResult:
    """Scores ``(videos, classes)`` and numbers ``(videos,)`` of the videos that were read, and the others."""

    __test__ = False

    scores: Tensor
    indices: Tensor
    failed: list[Failure]


def test(
    model: nn.Module, items: Iterable[VideoViews], world: World, *, max_failed: float = 1.0, **scoring: Any
) -> TestResult:
    """Scores every item of every rank; all ranks get the whole result, in the order of the index.

    Args:
        model: put into evaluation mode.
        items: this rank's videos.
        world: this process among the others.
        max_failed: share of the videos that may be unreadable: see ``Raises``, and ``check_failures`` for the end.
        scoring: ``mean``, ``std``, ``max_views`` and ``average`` of ``score_views``.

    Raises:
        UserError: on all ranks: the last ``IN_A_ROW`` videos of each could not be read, and of all videos until then
            more than ``max_failed``.
    """
    model.eval()
    rows: list[tuple[int, list[float]]] = []
    failed: list[Failure] = []
    rest = iter(items)
    done, in_a_row = False, 0
    while not done:
        before = len(rows) + len(failed)
        for item in islice(rest, IN_A_ROW):
            if item.frames is None:
                assert item.failed is not None
                failed.append(item.failed)
                in_a_row += 1
            else:
                rows.append((item.index, score_views(model, item.frames, device=world.device, **scoring).tolist()))
                in_a_row = 0
        mine = [len(rows) + len(failed) < before + IN_A_ROW, len(rows), len(failed), in_a_row]
        ended, read, unread, runs = zip(*world.rows(torch.zeros(0, device=world.device), mine))
        if min(runs) >= IN_A_ROW and sum(unread) > max_failed * (sum(read) + sum(unread)):
            raise none_is_read(world.gather(failed[-1])[0])
        done = all(ended)  # a rank with fewer videos takes part until the last one has no more
    parts = world.gather((rows, failed))
    rows = sorted(row for part, _ in parts for row in part)
    indices = torch.tensor([index for index, _ in rows], dtype=torch.long)
    scores = torch.tensor([row for _, row in rows]) if rows else torch.zeros(0, 1)
    return TestResult(scores, indices, sorted(failure for _, part in parts for failure in part))


def check_failures(result: TestResult, max_failed: float) -> None:
    """Raises a UserError where more than ``max_failed`` of all ranks' videos could not be read."""
    count = len(result.indices) + len(result.failed)
    if len(result.failed) > max_failed * count:
        first = result.failed[0]
        raise UserError(
            f"{len(result.failed)} of {count} videos cannot be read, more than DATA.MAX_FAILED ({max_failed}) allows; "
            f"the first: {first.path}: {first.reason}"
        )


def write_result(
    result: TestResult, index: VideoIndex, classes: Sequence[str], folder: Path, max_failed: float
) -> dict[str, Any]:
    """Writes ``metrics.json``, ``predictions.csv`` and the confusion matrix (CSV and picture); returns the metrics.

    Raises:
        UserError: more than ``max_failed`` of the videos could not be read (the files are written all the same).
    """
    labels = torch.from_numpy(index.labels)[result.indices]
    known = labels >= 0
    scores, known_labels = result.scores[known], labels[known]
    metrics: dict[str, Any] = {
        "top1": top_k_accuracy(scores, known_labels, 1),
        "top5": top_k_accuracy(scores, known_labels, 5),
        "num_videos": len(index),
        "num_failed": len(result.failed),
    }
    if len(known_labels):
        confusion = confusion_matrix(scores.argmax(1), known_labels, len(classes))
        metrics["per_class"] = dict(zip(classes, per_class_accuracy(confusion)))
        save_confusion(confusion, classes, folder)
    else:
        metrics["top1"] = metrics["top5"] = None
    metrics["failed"] = [failure._asdict() for failure in result.failed]
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    _write_predictions(result, labels, index, classes, folder / "predictions.csv")
    check_failures(result, max_failed)
    return metrics


def _write_predictions(
    result: TestResult, labels: Tensor, index: VideoIndex, classes: Sequence[str], path: Path
) -> None:
    """One row a video: path, label, then the five best classes with their scores; failed videos have their reason."""
    best = min(5, result.scores.shape[1])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        header = [name for rank in range(1, best + 1) for name in (f"prediction{rank}", f"score{rank}")]
        writer.writerow(["path", "label", *header, "error"])
        for number, label, row in zip(result.indices.tolist(), labels.tolist(), result.scores):
            values, order = row.topk(best)
            cells = [cell for v, o in zip(values.tolist(), order.tolist()) for cell in (classes[o], f"{v:.6f}")]
            writer.writerow([index.path(number), classes[label] if label >= 0 else "", *cells, ""])
        for failure in result.failed:
            writer.writerow([failure.path, "", *[""] * (2 * best), failure.reason])
