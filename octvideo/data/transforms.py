"""Transform decoded frames ``(T, H, W, 3)`` uint8 for a network. All frames of a clip get the same transform."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from octvideo.data.decoders.reader import scaled_size
from octvideo.data.seeds import fork_torch_rng

__all__ = [
    "color_jitter",
    "crop_places",
    "normalize_clips",
    "random_crop",
    "random_resized_crop",
    "resize_short_side",
    "spatial_crops",
]


def normalize_clips(
    frames: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normalise ``(N, T, H, W, 3)`` uint8 to ``(N, 3, T, H, W)`` in channels-last-3D memory, on any device."""
    scale = 1 / (255 * torch.tensor(std, dtype=dtype, device=frames.device))
    shift = -torch.tensor(mean, dtype=dtype, device=frames.device) * 255 * scale
    return torch.addcmul(shift, frames.to(dtype), scale).permute(0, 4, 1, 2, 3)


def _resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(frames.shape[1:3]) == size:
        return frames
    return tv.resize(frames.permute(0, 3, 1, 2), list(size), antialias=True).permute(0, 2, 3, 1)


def random_crop(frames: Tensor, size: int, short_side: Sequence[int], flip: float, rng: np.random.Generator) -> Tensor:
    """Apply scale jitter, a random square crop and a random flip: ``(T, size, size, 3)`` uint8.

    The short side is drawn from ``short_side`` (pixels, both ends included). Cropping before resizing gives the same
    picture for less work.
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
    """Apply torchvision's random resized crop and a random flip: ``(T, size, size, 3)`` uint8.

    Args:
        frames: ``(T, H, W, 3)`` uint8.
        size: pixels.
        area: range of the crop's share of the frame.
        aspect: range of the crop's width / height.
        flip: probability.
        rng: source of the random numbers.
    """
    crop = v2.RandomResizedCrop(size, scale=(area[0], area[1]), ratio=(aspect[0], aspect[1]), antialias=True)
    with fork_torch_rng(int(rng.integers(2**63))):
        frames = crop(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return frames.flip(2) if rng.random() < flip else frames


def color_jitter(frames: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast and saturation by random factors in 1 +- ``strength``: ``(T, H, W, 3)`` uint8."""
    if not strength:
        return frames
    brightness, contrast, saturation = (float(f) for f in rng.uniform(max(0, 1 - strength), 1 + strength, 3))
    images = frames.permute(0, 3, 1, 2)
    # For contrast torchvision takes the mean of each image. A clip needs one mean, so it becomes one tall image.
    tall = images.transpose(0, 1).flatten(1, 2)
    tall = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(tall, brightness), contrast), saturation)
    return tall.unflatten(1, (images.shape[0], images.shape[2])).permute(1, 2, 3, 0)


def resize_short_side(frames: Tensor, short_side: int) -> Tensor:
    """Resize ``(T, H, W, 3)`` uint8 so that the shorter side has ``short_side`` pixels; keep the aspect ratio."""
    return _resize(frames, scaled_size(frames.shape[1], frames.shape[2], short_side))


def crop_places(height: int, width: int, size: int, num_crops: int) -> list[tuple[int, int]]:
    """Return (top, left) of one centre crop, or of three along the long side.

    >>> crop_places(60, 100, 60, 3), crop_places(100, 60, 60, 1)
    ([(0, 0), (0, 20), (0, 40)], [(20, 0)])
    """
    spots = [0.5] if num_crops == 1 else [0.0, 0.5, 1.0]
    places = []
    for spot in spots:
        along_width = width >= height
        top = round((height - size) * (0.5 if along_width else spot))
        left = round((width - size) * (spot if along_width else 0.5))
        places.append((top, left))
    return places


def spatial_crops(frames: Tensor, size: int, num_crops: int) -> list[Tensor]:
    """Return the crops of ``crop_places``, each ``(T, size, size, 3)``."""
    places = crop_places(frames.shape[1], frames.shape[2], size, num_crops)
    return [frames[:, top : top + size, left : left + size] for top, left in places]
