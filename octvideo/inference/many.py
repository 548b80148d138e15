"""Predict many videos into one file of JSON lines; a kill at any moment loses at most the video in progress.

Each video's line has the same bytes however many processes share the videos: no line depends on another video, and all
of them use the backend that the first one used.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.errors import UserError, one_line
from octvideo.files import atomic_write
from octvideo.parts import Part
from octvideo.progress import Progress
from octvideo.records import Record

if TYPE_CHECKING:
    from torch import Tensor

    from octvideo.inference.predictor import Predictor

__all__ = ["fingerprint", "predict_many", "write_parquet"]

_TIMEOUT = 600.0  # seconds to download a video and read its clips
_ROWS = 4096  # rows of a group in a Parquet file


def fingerprint(checkpoint: str | Path, *settings: object) -> str:
    """Return a hash of a file of weights (an address counts as it is) and of what else decides the predictions."""
    digest = hashlib.sha256(repr(settings).encode())
    if os.path.isfile(checkpoint):
        with open(checkpoint, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    else:
        digest.update(str(checkpoint).encode())
    return digest.hexdigest()[:12]


def predict_many(
    videos: Sequence[str],
    file: Path,
    make_predictor: Callable[[str | None], Predictor],
    run: str,
    *,
    top_k: int = 5,
    part: Part | None = None,
    merge: bool = False,
    workers: int = 1,
) -> int:
    """Predict videos, and write a line for each, in their order, once all are there.

    A line is ``{"video", "model", "backend", "run", "sure", "predictions"}``, or has ``"error"`` in place of the last
    two. Lines that exist are kept. Once ``file`` is complete, another run tries the videos that failed again.

    Args:
        videos: paths and URLs, each once.
        file: the JSON lines.
        make_predictor: is called with the backend of the lines that exist, None for a free choice.
        run: of ``fingerprint``; lines of another run are refused.
        top_k: classes of a line.
        part: which videos to predict, for ``file`` to be written by ``merge`` later; None: all.
        merge: write ``file`` from what the parts have, and predict nothing.
        workers: processes that read videos ahead; a broken file can hang or crash no more than these.

    Returns:
        The number of videos, of this part, that could not be predicted.

    Raises:
        UserError: lines are of another run, a file cannot be written, or a video is missing to ``merge``.
    """
    with Record(file, "video", part, keep=lambda row: merge or "error" not in row) as record:
        for row in record:
            if row.get("run") != run:
                raise UserError(
                    f"{file}: has predictions of another network or with other options ({row[record.key]} for one); "
                    f"choose another name, or remove it and {file.name}.part*"
                )
        mine = [name for name in videos if part is None or part.has(name)]
        if merge:
            record.require(videos)
        else:
            todo = [name for name in mine if name not in record]
            _predict(record, todo, len(mine), make_predictor, run, top_k, workers)
        if part is None:
            record.write(videos)
            record.discard()
        return sum("error" in record.get(name) for name in mine)


def _predict(
    record: Record,
    todo: Sequence[str],
    total: int,
    make_predictor: Callable[[str | None], Predictor],
    run: str,
    top_k: int,
    workers: int,
) -> None:
    if not todo:
        return
    # They load torch, which takes seconds and is not needed to merge.
    from octvideo.inference.sources import local_copy
    from octvideo.workers import map_ahead

    predictor = make_predictor(next((row["backend"] for row in record), None))
    facts = {"model": predictor.name, "backend": predictor.backend.split()[0], "run": run}

    def read(name: str) -> Tensor | UserError:
        path = name
        try:
            with local_copy(name) as copy:
                path = str(copy)
                return predictor.read(copy)
        except Exception as error:  # decoders raise errors of many kinds; all of them cost this video only
            return UserError(one_line(error).replace(path, name))

    with Progress("predict", total) as progress:
        progress.update(total - len(todo))
        for name, clips in zip(todo, map_ahead(read, todo, workers=workers, timeout=_TIMEOUT), strict=True):
            row: dict[str, object] = {"video": name, **facts}
            if isinstance(clips, Exception):
                row["error"] = one_line(clips).removeprefix(f"{name}: ")
                print(f"error: {name}: {row['error']}", file=sys.stderr)
            else:
                predictions = predictor.predict_views(clips, top_k)
                found = [{"label": label, "score": round(score, 6)} for label, score in predictions]
                row |= {"sure": predictor.is_sure(predictions), "predictions": found}
            record.add(row)
            progress.update()


def write_parquet(source: Path, target: Path) -> None:
    """Write JSON lines of ``predict_many`` as Parquet: a row per video, ``predictions`` as a list of label and score.

    Raises:
        UserError: pyarrow is missing, or the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("pyarrow is needed for .parquet; install it with: pip install 'octvideo[parquet]'") from None
    text = pyarrow.string()
    scores = pyarrow.list_(pyarrow.struct({"label": text, "score": pyarrow.float64()}))
    columns = {name: text for name in ("video", "model", "backend", "run")}
    schema = pyarrow.schema({**columns, "sure": pyarrow.bool_(), "predictions": scores, "error": text})
    with atomic_write(target) as partial, source.open(encoding="utf-8") as lines:
        with pyarrow.parquet.ParquetWriter(partial, schema) as writer:
            while rows := [json.loads(line) for line in itertools.islice(lines, _ROWS)]:
                for row in rows:
                    row["video"] = os.fsencode(row["video"]).decode(errors="replace")  # Parquet has UTF-8 only
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
