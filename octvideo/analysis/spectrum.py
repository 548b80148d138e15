"""Fourier energy of feature maps, on a frequency axis that both groups of a pair share (Figure 4 of the paper).

Figure 4 of "Drop an Octave" (caption: "Frequency analysis for activation maps in different groups. 'Baseline' refers to
vanilla ResNet. 10k activation maps are sampled from ResNet-101(Res3)."; Sec. 4.2: "We conducted the Fourier transform
for each group of feature maps and visualized the averaged results") does not say how a map is normalised. Here each
map's energy is divided by its sum, so that strong and weak maps have equal weight. The mean of a map is included, as
frequency 0; no window is applied.

Along one axis of n positions, coefficient k is the frequency ``2 |k| / (n * scale)``: 1 is the Nyquist frequency of the
high group. ``scale`` is the distance of two positions in pixels of the high group: 1 for high maps, 2 for low ones ::

    high, n = 6    k   0    1    2   -3   -2   -1        frequency   0  0.33  0.67  1  0.67  0.33
    low,  n = 3    k   0    1   -1                       frequency   0  0.33  0.33

Over both axes it is ``sqrt((fy^2 + fx^2) / 2)``: 1 is the highest frequency of a map (Nyquist along both), and 0.5 the
highest of a low map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MeanSpectrum", "Profile", "energy", "mean_frequency", "profile", "radial_frequency"]

_CHUNK = 1 << 22  # elements to transform at once: 32 MB of coefficients


def energy(maps: Tensor) -> Tensor:
    """Return ``|F(x)|^2 / (H W)`` of maps ``(..., H, W)``, same shape; its sum is that of ``x^2`` (Parseval)."""
    return torch.view_as_real(torch.fft.fft2(maps.float(), norm="ortho")).square().sum(-1)


def radial_frequency(height: int, width: int, scale: int = 1) -> Tensor:
    """Return the frequency of each coefficient of ``energy``: float64 ``(height, width)``, from 0 to ``1 / scale``."""
    fy, fx = (torch.fft.fftfreq(size, dtype=torch.float64) * 2 / scale for size in (height, width))
    return ((fy[:, None].square() + fx.square()) / 2).sqrt()


class MeanSpectrum:
    """The mean energy of maps of one size, each map's energy divided by its sum.

    Attributes:
        maps: number of maps.
        silent: number of maps that are 0 everywhere; they have no spectrum and are not in the mean.
    """

    def __init__(self) -> None:
        self.maps, self.silent = 0, 0
        self._sum = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add the maps of ``(N, C, [T,] H, W)``.

        Raises:
            ValueError: their size differs from earlier maps.
        """
        maps = features.flatten(0, -3)
        size = maps.shape[-2:]
        if not self.maps:
            self._sum = torch.zeros(size, dtype=torch.float64)
        elif size != self._sum.shape:
            raise ValueError(f"maps of {tuple(self._sum.shape)} and of {tuple(size)}")
        for part in maps.split(max(1, _CHUNK // size.numel())):
            spectra = energy(part)
            total = spectra.sum((1, 2))
            sounding = total > 0
            self.maps, self.silent = self.maps + len(part), self.silent + int((~sounding).sum())
            share = spectra[sounding] / total[sounding, None, None]
            self._sum += share.cpu().sum(0, dtype=torch.float64)  # Apple's GPU has no float64

    @property
    def mean(self) -> Tensor:
        """Return the share of the energy at each coefficient: float64 ``(H, W)``, of sum 1 (0 if all are silent)."""
        return self._sum / max(1, self.maps - self.silent)


class Profile(NamedTuple):
    """A spectrum by frequency, without bins that have no coefficient.

    Attributes:
        frequency: 0, the mean of the map, then upper ends of bins of equal width.
        energy: mean over the coefficients in the bin; white noise at the high group's resolution has 1.
        cumulative: share of the energy up to this frequency, included.
    """

    frequency: list[float]
    energy: list[float]
    cumulative: list[float]


def profile(mean: Tensor, scale: int = 1, bins: int = 16) -> Profile:
    """Average a spectrum over all directions.

    White noise of 8x8 positions has 1 in each of its bins; at scale 2 it has 4, in a quarter of the plane.

    Args:
        mean: ``(H, W)``, of sum 1, from ``MeanSpectrum``.
        scale: 1, or 2 for the low group.
        bins: of ``(0, 1]``; a coefficient on a border is in the lower bin.
    """
    height, width = mean.shape
    frequency = radial_frequency(height, width, scale)
    # Rounded, because 0.3 * 10 may be slightly above 3.
    numbers = (frequency * bins).round(decimals=9).ceil().long().flatten()
    counts = numbers.bincount(minlength=bins + 1)
    shares = numbers.bincount(mean.double().flatten(), minlength=bins + 1)
    there = counts > 0
    density = shares[there] / counts[there] * mean.numel() * scale**2
    edges = torch.arange(bins + 1, dtype=torch.float64)[there] / bins
    return Profile(edges.tolist(), density.tolist(), shares.cumsum(0)[there].tolist())


def mean_frequency(mean: Tensor, scale: int = 1) -> float:
    """Return the mean of the frequencies, weighted with their share of the energy."""
    height, width = mean.shape
    return float((radial_frequency(height, width, scale) * mean).sum())
