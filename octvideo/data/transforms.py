"""From decoded frames ``(T, H, W, 3)`` uint8 to what a network takes. All frames of a clip are treated alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from octvideo.data.seeds import torch_draws

__all__ = [
    "color_jitter",
    "normalize_clips",
    "random_crop",
    "random_resized_crop",
    "resize_short_side",
    "spatial_crops",
]


def normalize_clips(
    frames: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """``(N, T, H, W, 3)`` uint8 on any device to normalised ``(N, 3, T, H, W)`` in channels-last-3D memory."""
    scale = 1 / (255 * torch.tensor(std, dtype=dtype, device=frames.device))
    shift = -torch.tensor(mean, dtype=dtype, device=frames.device) * 255 * scale
    return torch.addcmul(shift, frames.to(dtype), scale).permute(0, 4, 1, 2, 3)


def _resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(frames.shape[1:3]) == size:
        return frames
    return tv.resize(frames.permute(0, 3, 1, 2), list(size), antialias=True).permute(0, 2, 3, 1)


def random_crop(frames: Tensor, size: int, short_side: Sequence[int], flip: float, rng: np.random.Generator) -> Tensor:
    """Scale jitter, a random square crop and a random flip: ``(T, size, size, 3)`` uint8.

    The short side is drawn from ``short_side`` (pixels, both ends included). The crop is cut before it is
    resized, which gives the same picture for less work.
    """
    height, width = frames.shape[1:3]
    scaled = size * min(height, width) / rng.integers(short_side[0], short_side[1] + 1)
    edge = min(height, width, max(1, round(scaled)))
    top, left = int(rng.integers(0, height - edge + 1)), int(rng.integers(0, width - edge + 1))
    frames = _resize(frames[:, top : top + edge, left : left + edge], (size, size))
    return frames.flip(2) if rng.random() < flip else frames


def random_resized_crop(
    frames: Tensor, size: int, area: Sequence[float], aspect: Sequence[float], flip: float, rng: np.random.Generator
) -> Tensor:
    """A crop of random area and aspect ratio (torchvision's), and a random flip: ``(T, size, size, 3)`` uint8.

    Args:
        frames: ``(T, H, W, 3)`` uint8.
        size: pixels.
        area: range of the crop's share of the frame.
        aspect: range of the crop's width / height.
        flip: probability.
        rng: of all that is drawn.
    """
    crop = v2.RandomResizedCrop(size, scale=(area[0], area[1]), ratio=(aspect[0], aspect[1]), antialias=True)
    with torch_draws(int(rng.integers(2**63))):
        frames = crop(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return frames.flip(2) if rng.random() < flip else frames


def color_jitter(frames: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Random brightness, contrast and saturation, each by a factor in 1 +- ``strength``: ``(T, H, W, 3)`` uint8."""
    if not strength:
        return frames
    brightness, contrast, saturation = (float(f) for f in rng.uniform(max(0, 1 - strength), 1 + strength, 3))
    images = frames.permute(0, 3, 1, 2)
    # torchvision takes the mean of each image for contrast; a clip needs one mean, so it is mixed as one tall image.
    tall = images.transpose(0, 1).flatten(1, 2)
    tall = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(tall, brightness), contrast), saturation)
    return tall.unflatten(1, (images.shape[0], images.shape[2])).permute(1, 2, 3, 0)


def resize_short_side(frames: Tensor, short_side: int) -> Tensor:
    """Keeps the aspect ratio; ``(T, H, W, 3)`` uint8."""
    height, width = frames.shape[1:3]
    scale = short_side / min(height, width)
    return _resize(frames, (max(short_side, round(height * scale)), max(short_side, round(width * scale))))


def spatial_crops(frames: Tensor, size: int, num_crops: int) -> list[Tensor]:
    """One centre crop, or three along the long side, of ``(T, size, size, 3)``."""
    height, width = frames.shape[1:3]
    spots = [0.5] if num_crops == 1 else [0.0, 0.5, 1.0]
    crops = []
    for spot in spots:
        along_width = width >= height
        top = round((height - size) * (0.5 if along_width else spot))
        left = round((width - size) * (spot if along_width else 0.5))
        crops.append(frames[:, top : top + size, left : left + size])
    return crops
