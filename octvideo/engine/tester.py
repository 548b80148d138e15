"""Testing: every view of every video, every video once, however many processes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.data import Failure, VideoIndex, VideoViews, normalize_clips
from octvideo.data.dataset import MAX_CONSECUTIVE_FAILURES
from octvideo.data.lists import write_lines
from octvideo.engine.distributed import World
from octvideo.engine.failures import FailureBudget, all_unreadable_error
from octvideo.engine.metrics import (
    confusion_matrix,
    draw_confusion,
    per_class_accuracy,
    top_k_accuracy,
    write_confusion,
)
from octvideo.engine.views import average_views
from octvideo.files import atomic_write, write_bytes
from octvideo.signals import Stopped

__all__ = [
    "TestResult",
    "accuracy",
    "check_failures",
    "score_videos",
    "summarize",
    "test",
    "write_metrics",
    "write_details",
]

_MAX_CONFUSED = 5000  # classes that a confusion matrix is made for: 200 MB, and a file of 50 MB


@torch.inference_mode()
def score_videos(
    model: nn.Module,
    videos: Sequence[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    max_views: int,
    average: str = "softmax",
) -> list[Tensor]:
    """Probabilities of each video's classes, averaged over its views: float ``(classes,)`` on the CPU.

    Args:
        model: in evaluation mode.
        videos: frames of each, ``(V, T, H, W, 3)`` uint8, of one size.
        mean, std: of the frames.
        device: of the network.
        max_views: views that are forwarded at once.
        average: see ``average_views``.
    """
    logits = [model(normalize_clips(part.to(device), mean, std)) for part in torch.cat(list(videos)).split(max_views)]
    views = torch.cat(logits).cpu().split([len(frames) for frames in videos])
    return [average_views(part, average) for part in views]


@dataclass
class TestResult:
    """What a test found, over all ranks.

    Attributes:
        scores, indices: ``(videos, classes)`` and ``(videos,)``: class probabilities and numbers of the videos read.
        failed: the videos that could not be read.
    """

    __test__ = False

    scores: Tensor
    indices: Tensor
    failed: list[Failure]


def test(
    model: nn.Module,
    items: Iterable[VideoViews],
    world: World,
    *,
    max_views: int,
    max_failed: float = 1.0,
    asked_to_stop: Callable[[], bool] = lambda: False,
    **scoring: Any,
) -> TestResult:
    """Scores every item of every rank; all ranks get the whole result, in the order of the index.

    Args:
        model: put into evaluation mode.
        items: this rank's videos.
        world: this process among the others.
        max_views: views that are forwarded at once, of several videos where these have few.
        max_failed: share of the videos that may be unreadable: see ``Raises``, and ``check_failures`` for the end.
        asked_to_stop: asked before each pack of videos; where the answer is yes on any rank, all end soon after.
        scoring: ``mean``, ``std`` and ``average`` of ``score_videos``.

    Raises:
        Stopped: on all ranks: one was asked to.
        UserError: on all ranks: the last ``MAX_CONSECUTIVE_FAILURES`` videos of each could not be read, and of all
            videos until then more than ``max_failed``.
    """
    model.eval()
    rows: list[tuple[int, list[float]]] = []
    failed: list[Failure] = []
    rest = iter(items)
    batch = max(MAX_CONSECUTIVE_FAILURES, max_views)
    budget = FailureBudget(max_failed)
    done, in_a_row = False, 0
    while not done:
        before = len(rows) + len(failed)
        for pack in _packs(islice(rest, batch), max_views):
            if asked_to_stop():
                break
            for item in pack:
                in_a_row = in_a_row + 1 if item.frames is None else 0
            failed += [item.failed for item in pack if item.failed is not None]
            read = [(item.index, item.frames) for item in pack if item.frames is not None]
            if read:
                numbers, videos = zip(*read)
                scored = score_videos(model, videos, device=world.device, max_views=max_views, **scoring)
                rows += [(number, row.tolist()) for number, row in zip(numbers, scored)]
        mine = [len(rows) + len(failed) < before + batch, len(rows), len(failed), in_a_row, asked_to_stop()]
        ended, good, bad, runs, asked = zip(*world.rows(torch.zeros(0, device=world.device), mine))
        if any(asked):
            raise Stopped
        budget.drawn, budget.failed = int(sum(good) + sum(bad)), int(sum(bad))
        if min(runs) >= MAX_CONSECUTIVE_FAILURES and budget.exceeded:
            raise all_unreadable_error(world.gather(failed[-1])[0])
        done = all(ended)  # a rank with fewer videos takes part until the last one has no more
    parts = world.gather((rows, failed))
    rows = sorted(row for part, _ in parts for row in part)
    indices = torch.tensor([index for index, _ in rows], dtype=torch.long)
    scores = torch.tensor([row for _, row in rows]) if rows else torch.zeros(0, 1)
    failed = sorted(failure for _, part in parts for failure in part)
    return TestResult(scores, indices, failed)


def _packs(items: Iterable[VideoViews], max_views: int) -> Iterator[list[VideoViews]]:
    """Items in turn, as many together as have at most ``max_views`` views; one that has more is alone.

    An image has one view, and a device is not busy with one.
    """
    pack: list[VideoViews] = []
    views = 0
    for item in items:
        count = 0 if item.frames is None else len(item.frames)
        if views and views + count > max_views:
            yield pack
            pack, views = [], 0
        pack.append(item)
        views += count
    yield pack


def accuracy(result: TestResult, index: VideoIndex) -> dict[str, Any]:
    """``top1`` and ``top5`` in percent (None where no label is known), ``num_videos`` and ``num_failed``."""
    labels = torch.from_numpy(index.labels)[result.indices]
    known = labels >= 0
    top1, top5 = (top_k_accuracy(result.scores[known], labels[known], k) if known.any() else None for k in (1, 5))
    return {"top1": top1, "top5": top5, "num_videos": len(index), "num_failed": len(result.failed)}


def check_failures(result: TestResult, max_failed: float) -> None:
    """Raise UserError where more than the share ``max_failed`` of all ranks' videos could not be read."""
    budget = FailureBudget(max_failed)
    budget.add(len(result.indices) + len(result.failed), len(result.failed))
    if result.failed:
        budget.check(result.failed[0])


def summarize(
    result: TestResult, index: VideoIndex, classes: Sequence[str], num_failed_train: int = 0
) -> dict[str, Any]:
    """What ``metrics.json`` has; ``num_failed_train`` is the number of videos that the training could not read."""
    metrics = {**accuracy(result, index), "num_failed_train": num_failed_train}
    predicted, labels = _known(result, index)
    if len(labels):
        metrics["per_class"] = dict(zip(classes, per_class_accuracy(predicted, labels, len(classes))))
    metrics["failed"] = [failure._asdict() for failure in result.failed]
    return metrics


def _known(result: TestResult, index: VideoIndex) -> tuple[Tensor, Tensor]:
    """Predicted class and label of each video that has a label."""
    labels = torch.from_numpy(index.labels)[result.indices]
    known = labels >= 0
    return result.scores[known].argmax(1), labels[known]


def write_metrics(metrics: dict[str, Any], folder: Path) -> None:
    """Writes ``metrics.json``."""
    write_lines(folder / "metrics.json", [json.dumps(metrics, indent=1)])


def write_details(
    result: TestResult, index: VideoIndex, classes: Sequence[str], folder: Path, say: Callable[[str], None]
) -> None:
    """Writes ``predictions.csv``, ``confusion_matrix.csv`` and its picture, in this order.

    A picture that cannot be drawn is a warning, which ``say`` gets.

    Raises:
        UserError: a file cannot be written; those before it are there.
    """
    _write_predictions(result, index, classes, folder / "predictions.csv")
    predicted, labels = _known(result, index)
    if not len(labels):
        return
    if len(classes) > _MAX_CONFUSED:
        say(f"warning: no confusion matrix: {len(classes)} classes are more than {_MAX_CONFUSED}")
        return
    confusion = confusion_matrix(predicted, labels, len(classes))
    write_confusion(confusion, classes, folder / "confusion_matrix.csv")
    try:
        picture = draw_confusion(confusion, classes)
    except Exception as error:  # of many kinds: fonts, a user's settings of matplotlib, memory
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"warning: confusion_matrix.png cannot be drawn ({reason}); its numbers are in confusion_matrix.csv")
    else:
        write_bytes(folder / "confusion_matrix.png", picture)


def _write_predictions(result: TestResult, index: VideoIndex, classes: Sequence[str], path: Path) -> None:
    """One row a video: path, label, then the five best classes with their probabilities; the reason of a failure."""
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
