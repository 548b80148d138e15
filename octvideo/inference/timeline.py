"""Turn predictions over time into segments.

A window slides along a video. Its scores are those of the step in its middle. The scores are smoothed, and steps of one
label are merged ::

    frames    0 . . . . . . . . . . . . . . . . . . . . . . . .
    window          [----------- span -----------]
    steps     [every][every][every][every][every][every][every]
    labels     walk   walk   jump   walk   run    run    run
    segments  [---------- walk ----------][------- run -------]     too short for a segment: jump

Frames are read one after the other and are not kept. Memory holds the scores: 4 bytes per class and step.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from octvideo.files import write_bytes, write_text
from octvideo.inference.predictor import Predictor
from octvideo.inference.sources import FrameReader
from octvideo.inference.timeline_picture import draw_timeline
from octvideo.progress import Progress

__all__ = [
    "Segment",
    "Timeline",
    "find_segments",
    "is_long",
    "predict_timeline",
    "score_steps",
    "show_progress",
    "smooth",
    "to_records",
    "write_timeline",
]

# Chosen by benchmarks/timeline.py.
_SMOOTHING = 3  # steps that a moving average of the scores covers
_SHORTEST = 3  # steps of a segment
_LONG = 60  # seconds of a video from which one answer says little, and progress is shown


@dataclass(frozen=True)
class Segment:
    """A part of a video with one label.

    Attributes:
        start, end: seconds from the first frame. The end is the start of the next segment, or the end of the video.
        label: the class; of a segment that is not sure, the closest one.
        score: mean probability of the label, 0 to 1.
        sure: whether the score reaches the predictor's threshold; None without one.
    """

    start: float
    end: float
    label: str
    score: float
    sure: bool | None


@dataclass(frozen=True)
class Timeline:
    """Predictions along a video.

    Attributes:
        classes: C class names.
        every: frames of a step.
        times: start of each step and the end of the last one in seconds, ``(N + 1,)``.
        scores: smoothed probabilities of the classes, float32 ``(N, C)``.
        segments: in order; they cover the video without a gap.
    """

    classes: tuple[str, ...]
    every: int
    times: np.ndarray
    scores: np.ndarray
    segments: list[Segment]


def predict_timeline(source: str | Path, predictor: Predictor, *, every: int | None = None) -> Timeline:
    """Predict along a video file or a folder of frames.

    A video shorter than a window is one segment. Long videos show their progress.

    Args:
        source: the video.
        predictor: the network.
        every: frames of a step; None: a quarter of the window.

    Raises:
        UserError: the video cannot be read.
    """
    every = every or max(1, predictor.span // 4)
    times, scores = score_steps(source, predictor, every)
    scores = smooth(scores, _SMOOTHING)
    segments = find_segments(times, scores, predictor.classes, predictor.threshold)
    return Timeline(predictor.classes, every, times, scores, segments)


def is_long(source: str | Path, predictor: Predictor) -> bool:
    """Tell whether a video file or a folder of frames takes a minute or longer, or does not say how long it is.

    Raises:
        UserError: the video cannot be read.
    """
    with FrameReader(str(source), folder_fps=predictor.folder_fps) as reader:
        return not 0 < reader.duration < _LONG


def score_steps(source: str | Path, predictor: Predictor, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Return times ``(N + 1,)`` and scores ``(N, C)`` of all steps; near the ends a step gets the nearest window."""
    span = predictor.span
    window: deque[Tensor] = deque(maxlen=span)
    times: list[float] = []
    scores: list[np.ndarray] = []
    count = 0
    with (
        FrameReader(str(source), folder_fps=predictor.folder_fps) as reader,
        show_progress(reader, "predicted") as progress,
    ):
        for frame in reader:
            if count % every == 0:
                times.append(reader.time)
                progress()
            count += 1
            window.append(predictor.crop(frame))
            while count >= max(span, len(scores) * every + every // 2 + (span + 1) // 2):
                scores.append(predictor.score_window(window))
        end = reader.time + 1 / float(reader.fps)
    if len(scores) < len(times):  # later windows would exceed the end: use the last one
        scores += [predictor.score_window(window)] * (len(times) - len(scores))
    return np.array([*times, end]), np.stack(scores)


@contextlib.contextmanager
def show_progress(reader: FrameReader, what: str) -> Iterator[Callable[[], None]]:
    """Yield a function that shows how far the reader is, in seconds; nothing for short videos."""
    if reader.duration < _LONG:
        yield lambda: None
        return
    with Progress(f"{os.path.basename(reader.name)}: {what}", int(reader.duration), "s") as progress:
        yield lambda: progress.update(int(reader.time))


def smooth(scores: np.ndarray, size: int) -> np.ndarray:
    """Average scores ``(N, C)`` over ``size`` steps, an odd number, around each; over fewer at the ends."""
    count = len(scores)
    total = np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(scores, axis=0, dtype=np.float64)])
    low = np.maximum(np.arange(count) - size // 2, 0)
    high = np.minimum(np.arange(count) + size // 2 + 1, count)
    return ((total[high] - total[low]) / (high - low)[:, None]).astype(np.float32)


def find_segments(
    times: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    threshold: float | None = None,
    *,
    shortest: int = _SHORTEST,
) -> list[Segment]:
    """Merge steps of one label into segments.

    A step below the threshold has the label "not sure". Runs of less than ``shortest`` steps go to the runs on their
    two sides, divided where the scores of these two change places.

    Args:
        times: start of each step and the end of the last one in seconds, ``(N + 1,)``.
        scores: smoothed probabilities ``(N, C)``.
        classes: C names.
        threshold: probability of the best class from which a step is sure; None: every step.
        shortest: least number of steps of a segment, unless the video has fewer.

    Example::

        find_segments(np.arange(7), scores, ["run", "walk"])
        # [Segment(start=0.0, end=4.0, label="walk", score=0.8, sure=None), Segment(4.0, 6.0, "run", 0.9, None)]
    """
    # "Not sure" competes as one more class, whose score is the threshold everywhere.
    columns = np.column_stack([scores, np.full(len(scores), threshold or 0.0, scores.dtype)])
    best = columns.argmax(1)
    kept = [(start, end) for start, end in _runs(best) if end - start >= shortest]
    labels = best.copy()
    if kept:
        labels[: kept[0][0]], labels[kept[-1][1] :] = best[kept[0][0]], best[kept[-1][0]]
    else:
        labels[:] = columns.mean(0).argmax()
    for (_, end), (start, _) in itertools.pairwise(kept):
        before, after = best[end - 1], best[start]
        gain = np.cumsum(columns[end:start, before] - columns[end:start, after])
        change = end + int(np.argmax([0.0, *gain]))
        labels[end:change], labels[change:start] = before, after
    return [
        _segment(float(times[start]), float(times[end]), scores[start:end].mean(0), labels[start], classes, threshold)
        for start, end in _runs(labels)
    ]


def _runs(labels: np.ndarray) -> list[tuple[int, int]]:
    """Return start and end of each run of equal labels: ``[3, 3, 3, 1, 1]`` -> ``[(0, 3), (3, 5)]``."""
    changes = np.flatnonzero(np.diff(labels)) + 1
    return list(itertools.pairwise([0, *changes.tolist(), len(labels)]))


def _segment(
    start: float, end: float, means: np.ndarray, label: int, classes: Sequence[str], threshold: float | None
) -> Segment:
    place = label if label < len(classes) else int(means.argmax())
    score = float(means[place])
    return Segment(start, end, classes[place], score, None if threshold is None else score >= threshold)


def write_timeline(path: Path, segments: Sequence[Segment], video: str) -> None:
    """Write segments as a table (.csv), a JSON object (.json) or a picture (.png); the file is whole or not there.

    Args:
        path: ends in .csv, .json or .png; its folder exists.
        segments: see ``Timeline``.
        video: name of the video.

    Raises:
        UserError: the file cannot be written.
    """
    if path.suffix == ".png":
        write_bytes(path, draw_timeline(segments, video))
    elif path.suffix == ".json":
        write_text(path, json.dumps({"video": video, "segments": to_records(segments)}, indent=1) + "\n")
    else:
        text = io.StringIO()
        table = csv.DictWriter(text, ["start", "end", "label", "score", "sure"], lineterminator="\n")
        table.writeheader()
        table.writerows(to_records(segments))
        write_text(path, text.getvalue())


def to_records(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Return segments for JSON, in milliseconds' precision."""
    return [
        {
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "label": segment.label,
            "score": round(segment.score, 6),
            "sure": segment.sure,
        }
        for segment in segments
    ]
