"""Predict class names and probabilities from videos or frames."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from octvideo.backends.auto import prepare
from octvideo.backends.runners import Runner, TorchRunner
from octvideo.data.decoders.decode import DecodeError, Video, open_video
from octvideo.data.sampling import TARGET_FPS, clip_indices, uniform_clips
from octvideo.data.transforms import normalize_clips, resize_short_side, spatial_crops
from octvideo.device import resolve_device
from octvideo.engine.networks import Network, load_network
from octvideo.engine.views import average_views
from octvideo.errors import UserError
from octvideo.inference.confidence import answers
from octvideo.inference.exported import ExportedNetwork, is_exported, load_exported_network
from octvideo.inference.features import Features
from octvideo.inference.prediction import Prediction, top_predictions
from octvideo.octave import fold_batch_norm

__all__ = ["Predictor"]

_MOST_VIEWS = 10_000  # per video; all are in memory


class Predictor:
    """Predict the actions in videos.

    Clips are spread evenly over a video, centre-cropped, and averaged according to TEST.AVERAGE.

    Args:
        checkpoint: path or URL of an octvideo checkpoint, or of bare weights, also of other projects, together with
            ``cfg``; or a file that ``octvideo export`` wrote for OpenVINO; None: the small network that ships.
        cfg: a configuration or its file; None: the checkpoint's own.
        backend: ``"torch"``, ``"openvino"`` or ``"onnxruntime"``; ``"auto"``: see ``octvideo.backends.auto``.
        device: for torch: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``, see ``resolve_device``.
        views: clips per video; None: ``TEST.NUM_CLIPS``.
        threshold: probability of the best class, 0 to 1, from which ``is_sure``; 0: off; None: that of the checkpoint,
            if it has one.
        model: a network by name, such as ``"x3d_s"``, in place of ``cfg``; without a checkpoint its published weights.
        videos: number of videos to expect, from which ``"auto"`` chooses; ``math.inf`` for a camera or a server.

    Attributes:
        backend: what runs the network, and why, such as ``"openvino (converted before)"``.
        device: of PyTorch; the CPU for other backends.
        name: name of the network.
        classes: class names, in the network's order, without ``other`` (``octvideo/inference/confidence.py``).
        threshold: see above; None: there is none.
        span: number of video frames that a clip covers.
        folder_fps: frames per second of a folder of frames.

    Raises:
        UserError: a file is missing or does not match the network, or the backend is not installed.

    Example::

        predictor = octvideo.Predictor()
        predictions = predictor.predict("clip.mp4")
        print(predictions[0].label if predictor.is_sure(predictions) else "not sure")
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        cfg: str | Path | CfgNode | None = None,
        backend: str = "auto",
        device: str = "auto",
        views: int | None = None,
        threshold: float | None = None,
        model: str | None = None,
        videos: float = 1,
    ) -> None:
        if views is not None and not 1 <= views <= _MOST_VIEWS:
            raise UserError(f"views is {views}: it must be between 1 and {_MOST_VIEWS}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"threshold is {threshold}: it must be between 0 and 1")
        where = resolve_device(device)
        network: Network | ExportedNetwork
        if is_exported(checkpoint):
            network = _exported(checkpoint, cfg=cfg, model=model, backend=backend)
        else:
            as_2d = True if backend in ("auto", "torch") and where.type == "cpu" else None
            network = load_network(checkpoint, cfg, model=model, as_2d=as_2d)
        settings = network.cfg
        self._answers = answers(network.classes)
        self.name, self.classes = network.name, tuple(network.classes[place] for place in self._answers)
        self.threshold = (network.threshold if threshold is None else threshold) or None
        self.span = (settings.DATA.NUM_FRAMES - 1) * settings.DATA.SAMPLING_RATE + 1
        self.views = views or settings.TEST.NUM_CLIPS
        self._num_frames, self._rate = settings.DATA.NUM_FRAMES, settings.DATA.SAMPLING_RATE
        self._short_side, self._crop_size = settings.DATA.TEST_SHORT_SIDE, settings.DATA.TEST_CROP
        self._mean, self._std = settings.DATA.MEAN, settings.DATA.STD
        self._decoder, self._sampling, self.folder_fps = (
            settings.DATA.DECODER,
            settings.DATA.SAMPLING,
            settings.DATA.FPS,
        )
        self._batch, self._average = settings.TEST.MAX_VIEWS, settings.TEST.AVERAGE
        self.device, self._model = where, None
        self._run: Runner
        if isinstance(network, ExportedNetwork):
            self._run, self.backend = network.run, f"openvino ({network.precision}, exported)"
        else:
            clips = videos * self.views
            self._model = network.model if backend == "auto" else None
            self._run, self.backend = prepare(backend, network.model, settings, network.clip_shape, where, clips)

    def predict(self, path: str | Path, top_k: int = 5) -> list[Prediction]:
        """Predict a video file: the ``top_k`` best classes, best first. Scores of all classes, and ``other``, sum to 1.

        Raises:
            UserError: the file is missing or cannot be decoded.
        """
        return self.predict_views(self.read(path), top_k)

    def read(self, path: str | Path) -> Tensor:
        """Read the clips that ``predict`` averages: uint8 ``(views, T, size, size, 3)``.

        It may run in another thread, while this one predicts.

        Raises:
            UserError: the file is missing or cannot be decoded.
        """
        with self._open(path) as video:
            return self._views(video, self._clips(len(video), video.fps, video.times))

    def predict_views(self, views: Tensor, top_k: int = 5) -> list[Prediction]:
        """Predict the clips of a video, from ``read``."""
        return top_predictions(self._score(views), self.classes, top_k)

    def features(self, path: str | Path, *, per_window: bool = False, every: int | None = None) -> Features:
        """Return the vector before the classifier, for search, clustering and other models.

        PyTorch computes it, also with ``"auto"``.

        Args:
            path: a video file.
            per_window: one vector for each window along the video, of ``span`` frames, in place of one for the video.
            every: frames between the starts of windows; None: half a window.

        Returns:
            ``vectors`` float32 ``(N, D)``, ``start`` and ``end`` in seconds ``(N,)``. N is the number of windows, the
            last of which ends with the video; or 1: the mean over the views that ``predict`` averages.

        Raises:
            UserError: the file is missing or cannot be decoded, or the backend is another one.
        """
        run = self._torch_runner
        with self._open(path) as video:
            frames, fps = len(video), video.fps
            if per_window:
                start = _window_starts(frames, self.span, every or max(1, self.span // 2))
                clips = np.stack([clip_indices(int(first), frames, self._num_frames, self._rate) for first in start])
            else:
                start, clips = np.zeros(1, dtype=np.int64), self._clips(frames, fps, video.times)
            parts = []
            for first in range(0, len(clips), self._batch):
                views = self._views(video, clips[first : first + self._batch])
                parts.append(run.features(normalize_clips(views, self._mean, self._std)))
        vectors = torch.cat(parts) if per_window else torch.cat(parts).mean(0, keepdim=True)
        end = np.minimum(start + self.span, frames) if per_window else np.full(1, frames)
        return Features(vectors.numpy(), video.seconds(start), video.seconds(end))

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

    def is_sure(self, predictions: Sequence[Prediction]) -> bool | None:
        """Tell whether the best prediction reaches the threshold; None without a threshold."""
        return None if self.threshold is None else predictions[0].score >= self.threshold

    def crop(self, frame: np.ndarray) -> Tensor:
        """Resize and crop a frame for the network: uint8 ``(H, W, 3)`` to ``(size, size, 3)``."""
        return self._crops(torch.from_numpy(frame)[None])[0]

    def predict_window(self, crops: Sequence[Tensor], top_k: int = 5) -> list[Prediction]:
        """Predict the last clip in a window of consecutive frames, each from ``crop``."""
        return top_predictions(self.score_window(crops), self.classes, top_k)

    def score_window(self, crops: Sequence[Tensor]) -> np.ndarray:
        """Return the probabilities of ``classes`` in the last clip of a window, see ``predict_window``: ``(C,)``."""
        start = max(0, len(crops) - self.span)
        indices = clip_indices(start, len(crops), self._num_frames, self._rate)
        clip = torch.stack([crops[index] for index in indices])
        return self._score(clip[None])

    @cached_property
    def _torch_runner(self) -> TorchRunner:
        if isinstance(self._run, TorchRunner):
            return self._run
        if self._model is None:
            raise UserError("features need --backend torch: other backends return logits only")
        return TorchRunner(fold_batch_norm(self._model).to(self.device), self.device)

    @contextlib.contextmanager
    def _open(self, path: str | Path) -> Iterator[Video]:
        try:
            with open_video(str(path), self._decoder, fps=self.folder_fps) as video:
                yield video
        except DecodeError as error:
            raise UserError(f"{error.path}: cannot be decoded ({error.reason})") from None

    def _views(self, video: Video, clips: np.ndarray) -> Tensor:
        """Read the frames of clips, each once, and crop them: ``(V, T)`` to uint8 ``(V, T, size, size, 3)``."""
        unique, inverse = np.unique(clips, return_inverse=True)
        existing = np.minimum(unique, len(video) - 1)  # it may have proved shorter than its header says
        crops = video.frames(existing, lambda frames: self._crops(torch.from_numpy(frames)).numpy())
        return torch.from_numpy(crops)[torch.from_numpy(inverse.reshape(clips.shape))]

    def _clips(self, video_frames: int, fps: float, times: np.ndarray | None = None) -> np.ndarray:
        """Return the frame numbers of the test clips: ``(views, T)``."""
        return uniform_clips(
            video_frames, self._num_frames, self._rate, self.views, sampling=self._sampling, fps=fps, times=times
        )

    def _crops(self, frames: Tensor) -> Tensor:
        """Resize and centre-crop frames ``(n, H, W, 3)`` to ``(n, size, size, 3)``, as a copy."""
        return spatial_crops(resize_short_side(frames, self._short_side), self._crop_size, 1)[0].contiguous()

    def _score(self, clips: Tensor) -> np.ndarray:
        """Return the probabilities of ``classes`` from a video's clips, uint8 ``(V, T, size, size, 3)``."""
        parts = [self._run(normalize_clips(part, self._mean, self._std)) for part in clips.split(self._batch)]
        return average_views(torch.cat(parts), self._average).numpy()[self._answers]


def _exported(
    checkpoint: str | Path | None, *, cfg: str | Path | CfgNode | None, model: str | None, backend: str
) -> ExportedNetwork:
    assert checkpoint is not None
    if cfg is not None or model is not None:
        raise UserError(f"{checkpoint}: an exported network has its own configuration; leave out --cfg and --model")
    if backend not in ("auto", "openvino"):
        raise UserError(f"{checkpoint}: an exported network runs in OpenVINO; leave out --backend {backend}")
    return load_exported_network(checkpoint)


def _window_starts(frames: int, span: int, every: int) -> np.ndarray:
    """Return the first frames of windows along a video; the last window ends with it ::

    frames 30, span 15, every 7 -> 0 7 14 15        frames 10, span 15 -> 0
    """
    last = max(0, frames - span)
    return np.unique([*range(0, last + 1, every), last])
