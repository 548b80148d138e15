"""Which frames make a clip: arithmetic on frame numbers.

A clip of ``num_frames`` frames, one of every ``rate``, spans ``(num_frames - 1) * rate + 1`` frames of the video.
Videos shorter than that repeat their last frame.
"""

from __future__ import annotations

import numpy as np

__all__ = ["clip_indices", "random_clip", "uniform_clips"]


def clip_indices(start: int, video_frames: int, num_frames: int, rate: int) -> np.ndarray:
    """Frame numbers of the clip that begins at ``start``: int64 ``(num_frames,)``.

    >>> clip_indices(5, 100, 4, 8).tolist(), clip_indices(0, 10, 4, 4).tolist()
    ([5, 13, 21, 29], [0, 4, 8, 9])
    """
    return np.minimum(start + rate * np.arange(num_frames), video_frames - 1)


def _last_start(video_frames: int, num_frames: int, rate: int) -> int:
    return max(0, video_frames - ((num_frames - 1) * rate + 1))


def random_clip(video_frames: int, num_frames: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A clip whose start is uniform over all starts that fit: int64 ``(num_frames,)``."""
    start = int(rng.integers(0, _last_start(video_frames, num_frames, rate) + 1))
    return clip_indices(start, video_frames, num_frames, rate)


def uniform_clips(video_frames: int, num_frames: int, rate: int, num_clips: int) -> np.ndarray:
    """Clips spread evenly from the first to the last that fits; one clip is the middle: ``(num_clips, num_frames)``.

    Example: 30 frames, clips of 4 frames at rate 4 (13 frames), 3 clips: starts 0, 8, 17 ::

        frame  0  4  8  12 16 20 24 28
        clip 0 x  x  x  x
        clip 1       x  x  x  x
        clip 2                x(17 21 25 29)
    """
    last = _last_start(video_frames, num_frames, rate)
    starts = [last // 2] if num_clips == 1 else [last * clip // (num_clips - 1) for clip in range(num_clips)]
    return np.stack([clip_indices(start, video_frames, num_frames, rate) for start in starts])
