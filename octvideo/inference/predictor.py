"""The network behind one object: videos or frames in, class names and probabilities out."""

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

_MOST_VIEWS = 10_000  # of a video, all in memory
_CHUNK = 32  # frames that are held at full size: 200 MB at 1080p


class Predictor:
    """Predicts the action in videos.

    Several clips are spread evenly over a video and averaged as TEST.AVERAGE says. Each clip is the centre crop.

    Args:
        checkpoint: path or URL of a checkpoint of octvideo, or of bare weights, also of other projects, together with
            ``cfg``; None: the small network that ships with octvideo.
        cfg: a configuration or its file; None: that of the checkpoint.
        backend: ``"torch"``, ``"openvino"`` or ``"onnxruntime"``.
        device: for torch: ``"auto"`` (CUDA where there is one), ``"cpu"`` or ``"cuda"``.
        views: clips of a video; None: ``TEST.NUM_CLIPS``.

    Attributes:
        classes: the names of the classes, in the network's order.
        span: frames of a video that one clip reaches over.

    Raises:
        UserError: a file is missing or does not fit, or the backend is not installed.

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
        """The ``top_k`` best classes of a video file, best first; the scores of all classes sum to 1.

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
        """As ``predict``, of consecutive frames in memory: uint8 ``(T, H, W, 3)`` RGB, any T, at the video's own rate.

        Where DATA.SAMPLING asks for frames per second, 30 are assumed.

        Raises:
            ValueError: another type or shape.
        """
        tensor = torch.as_tensor(frames)
        if tensor.dtype != torch.uint8 or tensor.dim() != 4 or tensor.shape[3] != 3 or 0 in tensor.shape:
            raise ValueError(f"frames must be uint8 (T, H, W, 3), not {tensor.dtype} {tuple(tensor.shape)}")
        clips = self._clips(len(tensor), TARGET_FPS)
        scores = self._score(self._crops(tensor)[torch.from_numpy(clips)])
        return top_predictions(scores, self.classes, top_k)

    def crop(self, frame: np.ndarray) -> Tensor:
        """What the network sees of a frame: uint8 ``(H, W, 3)`` to ``(size, size, 3)``."""
        return self._crops(torch.from_numpy(frame)[None])[0]

    def predict_window(self, crops: Sequence[Tensor], top_k: int = 5) -> list[Prediction]:
        """The best classes of one clip, the last of a window of consecutive frames that ``crop`` has cropped."""
        start = max(0, len(crops) - self.span)
        indices = clip_indices(start, len(crops), self._num_frames, self._rate)
        clip = torch.stack([crops[index] for index in indices])
        return top_predictions(self._score(clip[None]), self.classes, top_k)

    def _clips(self, video_frames: int, fps: float) -> np.ndarray:
        """The frame numbers that testing takes: ``(views, T)``."""
        return uniform_clips(video_frames, self._num_frames, self._rate, self.views, sampling=self._sampling, fps=fps)

    def _crops(self, frames: Tensor) -> Tensor:
        """Centre crops ``(n, size, size, 3)`` of frames ``(n, H, W, 3)``, in memory of their own."""
        return spatial_crops(resize_short_side(frames, self._short_side), self._crop_size, 1)[0].contiguous()

    def _score(self, clips: Tensor) -> np.ndarray:
        """Probabilities ``(K,)`` of a video by its clips, uint8 ``(V, T, size, size, 3)``."""
        parts = [self._run(normalize_clips(part, self._mean, self._std)) for part in clips.split(self._batch)]
        return average_views(torch.cat(parts), self._average).numpy()
