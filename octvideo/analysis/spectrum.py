"""Fourier energy of feature maps, on a frequency axis that both groups of a pair share (Figure 4 of the paper).

Figure 4 of "Drop an Octave" (caption: "Frequency analysis for activation maps in different groups. 'Baseline' refers to
vanilla ResNet. 10k activation maps are sampled from ResNet-101(Res3)."; Sec. 4.2: "We conducted the Fourier transform
for each group of feature maps and visualized the averaged results") does not say how a map is normalised. Here each
map's energy is divided by its sum, so that every map counts the same, however strong it is. The mean of a map belongs
to it, as frequency 0, and no window is laid over it.

Along one axis of n positions, coefficient k is the frequency ``2 |k| / (n * scale)``: 1 is the Nyquist frequency of the
high group. ``scale`` is the distance of two positions in those of the high group, 1 for it and 2 for the low one ::

    high, n = 6    k   0    1    2   -3   -2   -1        frequency   0  0.33  0.67  1  0.67  0.33
    low,  n = 3    k   0    1   -1                       frequency   0  0.33  0.33

Over both axes it is ``sqrt((fy^2 + fx^2) / 2)``: 1 is the highest frequency of a map, Nyquist along both, and 0.5 the
highest that a map of the low group can have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MeanSpectrum", "Profile", "energy", "mean_frequency", "profile", "radial_frequency"]

_CHUNK = 1 << 22  # elements that are transformed at once: 32 MB of coefficients


def energy(maps: Tensor) -> Tensor:
    """``|F(x)|^2 / (H W)`` of maps ``(..., H, W)``, same shape; its sum is that of ``x^2`` (Parseval)."""
    return torch.view_as_real(torch.fft.fft2(maps.float(), norm="ortho")).square().sum(-1)


def radial_frequency(height: int, width: int, scale: int = 1) -> Tensor:
    """The frequency of each coefficient of ``energy``: float64 ``(height, width)``, from 0 to ``1 / scale``."""
    fy, fx = (torch.fft.fftfreq(size, dtype=torch.float64) * 2 / scale for size in (height, width))
    return ((fy[:, None].square() + fx.square()) / 2).sqrt()


class MeanSpectrum:
    """The mean over maps of one size of their energy, each map's divided by its sum.

    Attributes:
        maps: how many there were.
        silent: those of them that are 0 everywhere and so have no spectrum; the mean is that of the others.
    """

    def __init__(self) -> None:
        self.maps, self.silent = 0, 0
        self._sum = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Takes the maps of ``(N, C, [T,] H, W)``.

        Raises:
            ValueError: they have another size than those before.
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
            heard = total > 0
            self.maps, self.silent = self.maps + len(part), self.silent + int((~heard).sum())
            share = spectra[heard] / total[heard, None, None]
            self._sum += share.sum(0, dtype=torch.float64).cpu()

    @property
    def mean(self) -> Tensor:
        """Share of the energy at each coefficient: float64 ``(H, W)``, of sum 1 (0 where all maps are silent)."""
        return self._sum / max(1, self.maps - self.silent)


class Profile(NamedTuple):
    """A spectrum by frequency; entries without a coefficient are left out.

    Attributes:
        frequency: 0, the mean of the map, then upper ends of bins of equal width.
        energy: mean over the coefficients in the bin; 1 is that of white noise at the high group's resolution.
        cumulative: share of the energy up to and with this frequency.
    """

    frequency: list[float]
    energy: list[float]
    cumulative: list[float]


def profile(mean: Tensor, scale: int = 1, bins: int = 16) -> Profile:
    """Averages a spectrum over all directions.

    White noise of 8x8 positions has 1 in each of its bins; at scale 2 it has 4, in a quarter of the plane.

    Args:
        mean: ``(H, W)``, of sum 1, as ``MeanSpectrum`` gives it.
        scale: 1, or 2 for the low group.
        bins: of ``(0, 1]``; a coefficient on the border of two is in the lower one.
    """
    height, width = mean.shape
    frequency = radial_frequency(height, width, scale)
    # Rounded, as 0.3 * 10 may be a little above 3.
    numbers = (frequency * bins).round(decimals=9).ceil().long().flatten()
    counts = numbers.bincount(minlength=bins + 1)
    shares = numbers.bincount(mean.double().flatten(), minlength=bins + 1)
    there = counts > 0
    density = shares[there] / counts[there] * mean.numel() * scale**2
    edges = torch.arange(bins + 1, dtype=torch.float64)[there] / bins
    return Profile(edges.tolist(), density.tolist(), shares.cumsum(0)[there].tolist())


def mean_frequency(mean: Tensor, scale: int = 1) -> float:
    """The centre of a spectrum: the mean of the frequencies, each weighted with its share of the energy."""
    height, width = mean.shape
    return float((radial_frequency(height, width, scale) * mean).sum())
