"""Read videos with torchcodec, imported on demand; it needs FFmpeg's shared libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from octvideo.data.decoders.reader import scaled_size

__all__ = ["TorchcodecReader", "why_not"]


@cache
def why_not() -> str:
    """Return why torchcodec cannot be used; "" if it can."""
    try:
        import torchcodec.decoders  # noqa: F401
    except Exception as error:  # not installed, built for another PyTorch, or no libraries of FFmpeg
        return str(error).strip().split("\n")[0] or type(error).__name__
    return ""


class TorchcodecReader:
    """Read frames by the timestamps of all packets ("exact" mode)."""

    times: np.ndarray | None = None  # it tells them of decoded frames alone

    def __init__(self, source: str | bytes, short_side: int | None = None) -> None:
        self._decoder = _open(source)
        if not len(self._decoder):
            raise ValueError("no frames")
        self.fps = float(self._decoder.metadata.average_fps or 25)
        if short_side is not None:
            from torchcodec.transforms import Resize

            native = self._decoder[0].shape
            size = scaled_size(native[0], native[1], short_side)
            if size != native[:2]:
                self._decoder = _open(source, transforms=[Resize(size)])

    def __len__(self) -> int:
        return len(self._decoder)

    def close(self) -> None:
        del self._decoder

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for index in indices:
            yield self._decoder[index].numpy()


def _open(source: str | bytes, **options: Any) -> Any:
    from torchcodec.decoders import VideoDecoder

    # One thread: the loader's processes are the parallelism.
    return VideoDecoder(source, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact", **options)
