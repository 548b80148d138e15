"""Read what a run has left in its folder: predictions and curves."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ClassResult", "Curves", "Tested", "per_class", "read_curves", "read_tested", "worst_mistakes"]


class Tested(NamedTuple):
    """A video that a test has scored: its label ("" if unknown), the best class and the score of that class."""

    path: str
    label: str
    predicted: str
    score: float


class ClassResult(NamedTuple):
    """How the videos of a class were classified; ``confused`` are those that got the most frequent wrong answer."""

    name: str
    videos: int
    correct: int
    confused_with: str
    confused: int

    @property
    def accuracy(self) -> float:
        """Accuracy in percent."""
        return 100 * self.correct / self.videos


@dataclass
class Curves:
    """Points of the training log by step: (step, value)."""

    loss: list[tuple[int, float]] = field(default_factory=list)
    rate: list[tuple[int, float]] = field(default_factory=list)
    train_top1: list[tuple[int, float]] = field(default_factory=list)
    val_top1: list[tuple[int, float]] = field(default_factory=list)


def read_tested(path: Path) -> list[Tested]:
    """Return the scored videos in ``predictions.csv``, without those that could not be read."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [
            Tested(row["path"], row["label"], row["prediction1"], float(row["score1"]))
            for row in csv.DictReader(file)
            if row["prediction1"]
        ]


def per_class(labelled: Sequence[Tested]) -> list[ClassResult]:
    """Return the classes that have videos, the least accurate first."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for video in labelled:
        answers[video.label][video.predicted] += 1
    rows = []
    for name, counts in answers.items():
        wrong = [(other, count) for other, count in counts.most_common() if other != name]
        rows.append(ClassResult(name, counts.total(), counts[name], *(wrong[0] if wrong else ("", 0))))
    return sorted(rows, key=lambda row: (row.accuracy, row.name))


def worst_mistakes(labelled: Sequence[Tested]) -> list[Tested]:
    """Return the wrong answers, the most confident first."""
    return sorted((video for video in labelled if video.predicted != video.label), key=lambda video: -video.score)


def read_curves(path: Path) -> Curves:
    """Return the curves in ``log.jsonl``.

    A run that resumes repeats the steps after its checkpoint, and one that starts anew begins at the first step ::

        10 20 30 40 | 30 40 50      the bar: resumed at step 20; what is kept: 10 20 30 40 50
    """
    kept: list[dict[str, Any]] = []
    for line in _lines(path):
        while kept and _place(kept[-1]) >= _place(line):
            kept.pop()
        kept.append(line)
    curves = Curves()
    for line in kept:
        pairs = [(curves.loss, "loss"), (curves.rate, "lr"), (curves.train_top1, "top1")]
        for curve, key in pairs if line["kind"] == "train" else [(curves.val_top1, "top1")]:
            if line.get(key) is not None:  # what is not finite is logged as null
                curve.append((line["step"], line[key]))
    return curves


def _place(line: dict[str, Any]) -> tuple[int, str]:
    """Return what grows in the log of a training: at a step, "train" comes before "val"."""
    return line["step"], line["kind"]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of training and validation; a line that a crash has cut is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if line["kind"] in ("train", "val"):
                yield line
