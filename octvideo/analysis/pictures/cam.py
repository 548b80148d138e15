"""Grad-CAM over time (Selvaraju et al., ICCV 2017): where and when a network finds its answer in a video.

The maps are those in front of the head's pooling. There every video network has one frequency: the last octave layer,
or the pooling itself, merges the two. SlowFast has two such maps; their heat is added.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from octvideo.analysis.pictures.maps import normalized
from octvideo.data.decoders.reader import scaled_size
from octvideo.data.sampling import clip_indices
from octvideo.data.transforms import crop_places
from octvideo.engine.networks import Network
from octvideo.errors import UserError
from octvideo.inference import Predictor
from octvideo.inference.overlay import VideoWriter, annotate, output_scale
from octvideo.inference.prediction import Prediction
from octvideo.inference.sources import FrameReader
from octvideo.models.blocks import HeadPool
from octvideo.octave import merge

__all__ = ["heat_of_clip", "heat_of_video", "write_cam"]

_COLORS = "inferno"  # from dark to light, also in grey
_STRENGTH = 0.65  # share of the colour where the heat is highest
_UNSEEN = 0.35  # brightness of what the centre crop leaves out


def write_cam(path: Path, output: Path, network: Network, predictor: Predictor) -> Prediction:
    """Write a video with the heat of its answer over each frame, and return the answer.

    Args:
        path: of the video, or of a folder of frames.
        output: an .mp4.
        network: whose gradients are computed.
        predictor: of the same network.

    Raises:
        UserError: the video cannot be decoded, the network has no pooling of video maps, or the file cannot be written.
    """
    predictions = predictor.predict(path)
    answer, sure = predictions[0], predictor.is_sure(predictions)
    heat = heat_of_video(path, network, predictor, network.classes.index(answer.label))
    data = network.cfg.DATA
    with FrameReader(str(path), folder_fps=predictor.folder_fps) as reader, VideoWriter(output, reader.fps) as writer:
        for number, frame in enumerate(reader):
            scale = output_scale(frame.shape[1], frame.shape[0])
            large = np.asarray(Image.fromarray(frame).resize((frame.shape[1] * scale, frame.shape[0] * scale)))
            shown = _blend(large, heat[min(number, len(heat) - 1)], data.TEST_SHORT_SIDE, data.TEST_CROP)
            writer.write(annotate(shown, [answer], sure=sure), reader.time)
    return answer


def heat_of_video(path: Path, network: Network, predictor: Predictor, target: int) -> np.ndarray:
    """Return the heat of a class for each frame of a video: float32 ``(frames, h, w)``, 0 to 1 over the video.

    Windows of ``predictor.span`` frames start every half span; where they overlap, their heat is averaged.

    Raises:
        UserError: see ``write_cam``.
    """
    total: list[np.ndarray] = []
    counts: list[int] = []
    for start, crops in _windows(path, predictor):
        data = network.cfg.DATA
        indices = clip_indices(0, len(crops), data.NUM_FRAMES, data.SAMPLING_RATE)
        heat = heat_of_clip(network.model, normalized(torch.stack([crops[n] for n in indices])[None], network), target)
        spread = F.interpolate(heat[None, None], (predictor.span, *heat.shape[1:]), mode="trilinear")[0, 0].numpy()
        for number in range(start, start + len(crops)):
            if number == len(total):
                total.append(np.zeros(heat.shape[1:], dtype=np.float32))
                counts.append(0)
            total[number] += spread[number - start]
            counts[number] += 1
    heats = np.stack([heat / count for heat, count in zip(total, counts)])
    return np.maximum(heats, 0) / max(float(heats.max()), 1e-12)


def _windows(path: Path, predictor: Predictor) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield the first frame and the crops ``(size, size, 3)`` of windows along a video; the last one ends with it ::

    30 frames, windows of 16: 0..15, 8..23, 14..29      10 frames: 0..9
    """
    span, hop = predictor.span, max(1, predictor.span // 2)
    crops: deque[Tensor] = deque(maxlen=span)
    count = last = 0
    with FrameReader(str(path), folder_fps=predictor.folder_fps) as reader:
        for count, frame in enumerate(reader, 1):
            crops.append(predictor.crop(frame))
            if count >= span and (count - span) % hop == 0:
                last = count
                yield count - span, list(crops)
    if last != count:
        yield count - len(crops), list(crops)


def heat_of_clip(model: nn.Module, clip: Tensor, target: int) -> Tensor:
    """Return the evidence for a class at each place of the final maps: float ``(t, h, w)`` on the CPU, also below 0.

    A map's weight is its mean gradient. The sum over the maps is times the number of places: so it does not depend on
    their size, and those of SlowFast's pathways can be added.

    Args:
        model: a video network in evaluation mode. Its parameters stop to require gradients, which saves memory.
        clip: ``(1, 3, T, H, W)``.
        target: number of the class.

    Raises:
        UserError: the network has no pooling of video maps.
    """
    pools = [module for module in model.modules() if isinstance(module, HeadPool)]
    if not pools:
        raise UserError("Grad-CAM over time needs a video network; image networks have no maps over time")
    model.requires_grad_(False)
    inputs: list[Tensor] = []

    def watch(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        inputs.append(merge(arguments[0]).detach().requires_grad_())
        return (inputs[-1],)

    handles = [pool.register_forward_pre_hook(watch) for pool in pools]
    try:
        with torch.enable_grad():
            score = model(clip)[0, target]
            gradients = torch.autograd.grad(score, inputs)
    finally:
        for handle in handles:
            handle.remove()
    heats = []
    for maps, gradient in zip(inputs, gradients):
        weights = gradient.mean((2, 3, 4), keepdim=True)
        heats.append((weights * maps.detach()).sum(1, keepdim=True) * maps[0, 0].numel())
    size = max((heat.shape[2:] for heat in heats), key=lambda shape: shape.numel())
    return sum(F.interpolate(heat, size, mode="trilinear")[0, 0] for heat in heats).cpu()  # type: ignore[union-attr]


def _blend(frame: np.ndarray, heat: np.ndarray, short_side: int, crop: int) -> np.ndarray:
    """Lay heat ``(h, w)`` over the part of a frame that the network sees, and darken the rest: uint8 ``(H, W, 3)``."""
    from matplotlib import colormaps

    height, width, _ = frame.shape
    scaled = scaled_size(height, width, short_side)
    [(top, left)] = crop_places(*scaled, crop, 1)
    rows = slice(round(top * height / scaled[0]), round((top + crop) * height / scaled[0]))
    columns = slice(round(left * width / scaled[1]), round((left + crop) * width / scaled[1]))
    seen = frame[rows, columns]
    smooth = np.asarray(Image.fromarray(heat).resize((seen.shape[1], seen.shape[0]), Image.Resampling.BILINEAR))
    share = _STRENGTH * smooth[..., None]
    blended = _UNSEEN * frame.astype(np.float32)
    blended[rows, columns] = (1 - share) * seen + share * 255 * colormaps[_COLORS](smooth)[..., :3]
    return blended.round().astype(np.uint8)
