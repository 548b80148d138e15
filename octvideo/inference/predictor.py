"""Predict class names and probabilities from videos or frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from octvideo.data.decoders.decode import DecodeError, open_video
from octvideo.data.sampling import TARGET_FPS, clip_indices, uniform_clips
from octvideo.data.transforms import normalize_clips, resize_short_side, spatial_crops
from octvideo.device import resolve_device
from octvideo.engine.views import average_views
from octvideo.errors import UserError
from octvideo.inference.backends import create_runner
from octvideo.inference.prediction import Prediction, top_predictions
from octvideo.inference.weights import load_network

__all__ = ["Predictor"]

_MOST_VIEWS = 10_000  # per video; all are in memory
_CHUNK = 32  # frames held at full size: 200 MB at 1080p


class Predictor:
    """Predict the actions in videos.

    Clips are spread evenly over a video, centre-cropped, and averaged according to TEST.AVERAGE.

    Args:
        checkpoint: path or URL of an octvideo checkpoint, or of bare weights, also of other projects, together with
            ``cfg``; None: the small network shipped with octvideo.
        cfg: a configuration or its file; None: the checkpoint's own.
        backend: ``"torch"``, ``"openvino"`` or ``"onnxruntime"``.
        device: for torch: ``"auto"`` (CUDA if available), ``"cpu"`` or ``"cuda"``.
        views: clips per video; None: ``TEST.NUM_CLIPS``.

    Attributes:
        classes: class names, in the network's order.
        span: number of video frames that a clip covers.

    Raises:
        UserError: a file is missing or does not match the network, or the backend is not installed.

    Example::

        predictor = octvideo.Predictor()
        for label, score in predictor.predict("clip.mp4"):
            print(label, score)
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        cfg: str | Path | CfgNode | None = None,
        backend: str = "torch",
        device: str = "auto",
        views: int | None = None,
    ) -> None:
        if views is not None and not 1 <= views <= _MOST_VIEWS:
            raise UserError(f"views is {views}: it must be between 1 and {_MOST_VIEWS}")
        where = resolve_device(device)
        as_2d = True if backend == "torch" and where.type == "cpu" else None
        network = load_network(checkpoint, cfg, as_2d=as_2d)
        settings = network.cfg
        self.classes = network.classes
        self.span = (settings.DATA.NUM_FRAMES - 1) * settings.DATA.SAMPLING_RATE + 1
        self.views = views or settings.TEST.NUM_CLIPS
        self._num_frames, self._rate = settings.DATA.NUM_FRAMES, settings.DATA.SAMPLING_RATE
        self._short_side, self._crop_size = settings.DATA.TEST_SHORT_SIDE, settings.DATA.TEST_CROP
        self._mean, self._std = settings.DATA.MEAN, settings.DATA.STD
        self._decoder, self._sampling = settings.DATA.DECODER, settings.DATA.SAMPLING
        self._batch, self._average = settings.TEST.MAX_VIEWS, settings.TEST.AVERAGE
        self._run = create_runner(backend, network.model, network.clip_shape, where)

    def predict(self, path: str | Path, top_k: int = 5) -> list[Prediction]:
        """Predict a video file: the ``top_k`` best classes, best first. Scores of all classes sum to 1.

        Raises:
            UserError: the file is missing or cannot be decoded.
        """
        try:
            with open_video(str(path), self._decoder) as video:
                clips = self._clips(len(video), video.fps)
                unique, inverse = np.unique(clips, return_inverse=True)
                parts = (video.frames(unique[start : start + _CHUNK]) for start in range(0, len(unique), _CHUNK))
                crops = torch.cat([self._crops(torch.from_numpy(part)) for part in parts])
        except DecodeError as error:
            raise UserError(f"{error.path}: cannot be decoded ({error.reason})") from None
        scores = self._score(crops[torch.from_numpy(inverse.reshape(clips.shape))])
        return top_predictions(scores, self.classes, top_k)

    def predict_frames(self, frames: np.ndarray | Tensor, top_k: int = 5) -> list[Prediction]:
        """Predict consecutive frames in memory: uint8 ``(T, H, W, 3)`` RGB, any T, at the video's own rate.

        Sampling rules that use frames per second assume 30.

        Raises:
            ValueError: wrong type or shape.
        """
        tensor = torch.as_tensor(frames)
        if tensor.dtype != torch.uint8 or tensor.dim() != 4 or tensor.shape[3] != 3 or 0 in tensor.shape:
            raise ValueError(f"frames must be uint8 (T, H, W, 3), not {tensor.dtype} {tuple(tensor.shape)}")
        clips = self._clips(len(tensor), TARGET_FPS)
        scores = self._score(self._crops(tensor)[torch.from_numpy(clips)])
        return top_predictions(scores, self.classes, top_k)

    def crop(self, frame: np.ndarray) -> Tensor:
        """Resize and crop a frame for the network: uint8 ``(H, W, 3)`` to ``(size, size, 3)``."""
        return self._crops(torch.from_numpy(frame)[None])[0]

    def predict_window(self, crops: Sequence[Tensor], top_k: int = 5) -> list[Prediction]:
        """Predict the last clip in a window of consecutive frames, each from ``crop``."""
        start = max(0, len(crops) - self.span)
        indices = clip_indices(start, len(crops), self._num_frames, self._rate)
        clip = torch.stack([crops[index] for index in indices])
        return top_predictions(self._score(clip[None]), self.classes, top_k)

    def _clips(self, video_frames: int, fps: float) -> np.ndarray:
        """Return the frame numbers of the test clips: ``(views, T)``."""
        return uniform_clips(video_frames, self._num_frames, self._rate, self.views, sampling=self._sampling, fps=fps)

    def _crops(self, frames: Tensor) -> Tensor:
        """Resize and centre-crop frames ``(n, H, W, 3)`` to ``(n, size, size, 3)``, as a copy."""
        return spatial_crops(resize_short_side(frames, self._short_side), self._crop_size, 1)[0].contiguous()

    def _score(self, clips: Tensor) -> np.ndarray:
        """Return the probabilities ``(K,)`` of a video from its clips, uint8 ``(V, T, size, size, 3)``."""
        parts = [self._run(normalize_clips(part, self._mean, self._std)) for part in clips.split(self._batch)]
        return average_views(torch.cat(parts), self._average).numpy()
