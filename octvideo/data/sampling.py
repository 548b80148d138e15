"""Choose the frames of clips: our rule and those of two peers.

``sampling`` names the rule (DATA.SAMPLING). A video has L frames at f per second; N clips of n frames, stride r:

- ``even``: the n frames are exactly r apart, whatever f is, so a clip spans ``(n - 1) * r + 1`` frames. Training draws
  the start uniformly from all that fit. Testing spreads the starts from the first to the last that fits; a single clip
  is the middle one. Videos that are too short repeat their last frame. Where the rate varies, a clip gets the frames
  at the times that these would have at a constant rate.
- ``pyslowfast``: a clip is ``S = n * r * f / 30`` frames, as if the video had 30 a second; its first frame is at
  ``start``, its last at ``start + S - 1``, the others evenly between (8 x 8 at 30 frames a second: 9 apart). Training
  draws ``start`` uniformly from 0 to ``D = max(L - S, 0)``; test clip i starts at ``D * i / N``, so the last clip ends
  before the video does, and a single one is the first. Frame numbers beyond the end become the last frame. (Its
  ``decoder.py``, where it decodes the whole video.)
- ``pytorchvideo``: a clip is ``n * r / 30`` seconds; n frames are spread over those that begin in it. Starts as for
  ``pyslowfast``, in seconds. In a video that is too short the n frames are spread over all there are. (Version 0.1.5:
  ``ConstantClipsPerVideoSampler`` or ``RandomClipSampler``, the decoders' ``get_clip``, ``UniformTemporalSubsample``.)
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch

__all__ = ["TARGET_FPS", "clip_indices", "random_clip", "uniform_clips"]

TARGET_FPS = 30.0  # both peers measure a clip's length in frames at this rate


def clip_indices(start: int, video_frames: int, num_frames: int, rate: int) -> np.ndarray:
    """Return the frame numbers of the clip that starts at ``start``: int64 ``(num_frames,)``.

    >>> clip_indices(5, 100, 4, 8).tolist(), clip_indices(0, 10, 4, 4).tolist()
    ([5, 13, 21, 29], [0, 4, 8, 9])
    """
    return np.minimum(start + rate * np.arange(num_frames), video_frames - 1)


def random_clip(
    video_frames: int,
    num_frames: int,
    rate: int,
    rng: np.random.Generator,
    *,
    sampling: str = "even",
    fps: float = TARGET_FPS,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a clip whose start is uniform over all that fit: int64 ``(num_frames,)``.

    ``fps`` and ``times`` are those of ``Video``.
    """
    if sampling == "pyslowfast":
        size = _slowfast_size(num_frames, rate, fps)
        return _slowfast_clip(rng.uniform(0, max(video_frames - size, 0)), size, video_frames, num_frames)
    if sampling == "pytorchvideo":
        seconds = num_frames * rate / TARGET_FPS
        start = Fraction(rng.uniform(0, max(video_frames / fps - seconds, 0)))
        return _seconds_clip(start, seconds, video_frames, num_frames, fps)
    first = int(rng.integers(0, _last_start(video_frames, num_frames, rate) + 1))
    return _at_even_times(clip_indices(first, video_frames, num_frames, rate), times)


def uniform_clips(
    video_frames: int,
    num_frames: int,
    rate: int,
    num_clips: int,
    *,
    sampling: str = "even",
    fps: float = TARGET_FPS,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """Spread clips over a video: int64 ``(num_clips, num_frames)``; ``fps`` and ``times`` are those of ``Video``.

    Example: 30 frames at 30 per second, 3 clips of 4 frames, stride 4 ::

        even           last start 30 - 13 = 17; starts 0, 17/2 -> 8, 17
                       0 4 8 12 | 8 12 16 20 | 17 21 25 29
        pyslowfast     S = 4 * 4 * 30 / 30 = 16, D = 30 - 16 = 14; starts 0, 14/3 = 4.67, 28/3 = 9.33;
                       4 frames from start to start + 15 are 5 apart, cut to whole numbers
                       0 5 10 15 | 4 9 14 19 | 9 14 19 24
        pytorchvideo   16/30 s of 1 s, starts 0, 4.67/30, 9.33/30 s; the frames that begin in them are 0 to 15, 5 to 20
                       and 10 to 25, and 4 spread over 16 are 5 apart
                       0 5 10 15 | 5 10 15 20 | 10 15 20 25
    """
    if sampling == "pyslowfast":
        size = _slowfast_size(num_frames, rate, fps)
        room = max(video_frames - size, 0)
        clips = [_slowfast_clip(room * clip / num_clips, size, video_frames, num_frames) for clip in range(num_clips)]
    elif sampling == "pytorchvideo":
        seconds = num_frames * rate / TARGET_FPS
        step = Fraction(max(video_frames / fps - seconds, 0)) / num_clips
        clips = [_seconds_clip(step * clip, seconds, video_frames, num_frames, fps) for clip in range(num_clips)]
    else:
        last = _last_start(video_frames, num_frames, rate)
        starts = [last // 2] if num_clips == 1 else [last * clip // (num_clips - 1) for clip in range(num_clips)]
        clips = [_at_even_times(clip_indices(start, video_frames, num_frames, rate), times) for start in starts]
    return np.stack(clips)


def _at_even_times(indices: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """Return the frames nearest to the times that ``indices`` would have at a constant rate.

    They are ``indices`` where each frame is within one place of that, as where times are rounded. Example: frames at 0,
    4, 8, 9, 10, 11, 12 s; at a constant rate they would be 2 s apart, and frames 0, 2, 4 at 0, 4, 8 s: 0, 1, 2.
    """
    if times is None or len(times) < 2:
        return indices
    even = np.linspace(times[0], times[-1], len(times))
    if np.abs(times - even).max() <= even[1] - even[0]:
        return indices
    after = np.searchsorted(times, even[indices])
    before = np.maximum(after - 1, 0)
    return np.where(even[indices] - times[before] < times[after] - even[indices], before, after)


def _last_start(video_frames: int, num_frames: int, rate: int) -> int:
    return max(0, video_frames - ((num_frames - 1) * rate + 1))


def _slowfast_size(num_frames: int, rate: int, fps: float) -> float:
    return rate * num_frames / TARGET_FPS * fps


def _spread(first: float, last: float, count: int) -> np.ndarray:
    """Return ``count`` numbers from ``first`` to ``last``, in float32 like the peers: rounding decides the frames."""
    return torch.linspace(first, last, count).numpy()


def _slowfast_clip(start: float, size: float, video_frames: int, num_frames: int) -> np.ndarray:
    return np.clip(_spread(start, start + size - 1, num_frames), 0, video_frames - 1).astype(np.int64)


def _seconds_clip(start: Fraction, seconds: float, video_frames: int, num_frames: int, fps: float) -> np.ndarray:
    """Spread ``num_frames`` over the frames that begin in ``[start, start + seconds)``; exact starts, like the peer."""
    first = min(math.ceil(fps * start), video_frames - 1)
    count = min(math.ceil(fps * (start + Fraction(seconds))), video_frames) - first
    return first + _spread(0, max(count - 1, 0), num_frames).astype(np.int64)
