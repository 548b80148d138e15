"""Files of feature vectors, for search, clustering and other models."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from octvideo.errors import UserError
from octvideo.files import atomic_write

__all__ = ["AddFeatures", "Features", "writing_features"]

_ROWS = 4096  # rows of a group in a Parquet file


class Features(NamedTuple):
    """Feature vectors of one video.

    Attributes:
        vectors: float32 ``(N, D)``; N is 1, or the number of windows.
        start, end: seconds from the beginning of the video, ``(N,)``.
    """

    vectors: np.ndarray
    start: np.ndarray
    end: np.ndarray


AddFeatures = Callable[[str, Features], None]


@contextlib.contextmanager
def writing_features(path: Path, model: str) -> Iterator[AddFeatures]:
    """Yield a function that adds the features of a video to a file. After an error the file has its old content.

    ``.npz`` has the arrays ``features`` float32 ``(N, D)``, ``video``, ``start`` and ``end`` ``(N,)``, and ``model``.
    ``.parquet`` has a row for each vector with the columns video, start, end, features and model. Vectors go to disk as
    they come.

    Args:
        path: ends in .npz or .parquet.
        model: name of the network.

    Raises:
        UserError: the file cannot be written, pyarrow is missing, or no features were added.
    """
    writer = _npz if path.suffix == ".npz" else _parquet
    with atomic_write(path, parents=True) as partial, writer(partial, model) as add:
        count = 0

        def counted(video: str, features: Features) -> None:
            nonlocal count
            count += len(features.vectors)
            add(video, features)

        yield counted
        if not count:
            raise UserError(f"--features {path}: not written, as there are no features of any video")


@contextlib.contextmanager
def _npz(path: Path, model: str) -> Iterator[AddFeatures]:
    videos: list[str] = []
    times: list[np.ndarray] = []
    size = 0
    with tempfile.TemporaryFile(dir=path.parent) as spool:

        def add(video: str, features: Features) -> None:
            nonlocal size
            videos.extend([video] * len(features.vectors))
            times.append(np.stack([features.start, features.end]))
            size = features.vectors.shape[1]
            spool.write(np.ascontiguousarray(features.vectors, dtype="<f4").tobytes())

        yield add
        spool.seek(0)
        start, end = np.concatenate(times, axis=1)
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as entry:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(videos), size)}
                np.lib.format.write_array_header_1_0(entry, header)
                shutil.copyfileobj(spool, entry)
            arrays = {"video": np.array(videos), "start": start, "end": end, "model": np.array(model)}
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)


@contextlib.contextmanager
def _parquet(path: Path, model: str) -> Iterator[AddFeatures]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("pyarrow is needed for .parquet; install it with: pip install 'octvideo[parquet]'") from None
    fields = {"video": pyarrow.string(), "start": pyarrow.float64(), "end": pyarrow.float64()}
    schema = pyarrow.schema({**fields, "features": pyarrow.list_(pyarrow.float32()), "model": pyarrow.string()})
    rows: list[dict[str, object]] = []
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            rows.clear()

        def add(video: str, features: Features) -> None:
            video = os.fsencode(video).decode(errors="replace")  # Parquet has UTF-8 only
            for vector, start, end in zip(*features, strict=True):
                rows.append({"video": video, "start": start, "end": end, "features": vector, "model": model})
            if len(rows) >= _ROWS:
                flush()

        yield add
        flush()
