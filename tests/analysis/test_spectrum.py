"""Spectra of maps whose frequencies are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from octvideo.analysis.spectrum import MeanSpectrum, energy, mean_frequency, profile, radial_frequency


def wave(height: int, width: int, ky: float, kx: float) -> Tensor:
    """A cosine of ``ky`` and ``kx`` periods over the map."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.cos(2 * math.pi * (ky * y + kx * x))


def mean_of(*maps: Tensor) -> Tensor:
    """The mean spectrum of maps of one size."""
    spectrum = MeanSpectrum()
    spectrum.add(torch.stack(maps)[:, None])
    return spectrum.mean


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (6, 9), (1, 3), (1, 1)])
def test_energy_equals_that_of_the_maps(size: tuple[int, int]) -> None:
    maps = torch.randn(3, 4, *size)
    found = energy(maps)
    assert found.shape == maps.shape
    assert torch.allclose(found.sum((-2, -1)), maps.square().sum((-2, -1)), rtol=1e-5)
    expected = np.abs(np.fft.fft2(maps.numpy())) ** 2 / (size[0] * size[1])
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_frequencies_of_even_and_odd_sizes() -> None:
    along = torch.tensor([0, 1, 2, 3, 2, 1], dtype=torch.float64) / 3
    assert torch.allclose(radial_frequency(6, 1)[:, 0], along / math.sqrt(2))
    low = torch.tensor([0, 1, 1], dtype=torch.float64) / 3
    assert torch.allclose(radial_frequency(1, 3, scale=2)[0], low / math.sqrt(2))
    assert radial_frequency(8, 6).max() == 1 and radial_frequency(4, 6, scale=2).max() == 0.5
    assert radial_frequency(7, 7).max() == pytest.approx(6 / 7)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(
    ("size", "periods"), [((16, 16), (3, 0)), ((16, 12), (5, 4)), ((15, 9), (2, 3)), ((8, 8), (4, 4)), ((9, 9), (4, 1))]
)
def test_wave_is_in_one_bin(size: tuple[int, int], periods: tuple[int, int], scale: int) -> None:
    curve = profile(mean_of(wave(*size, *periods)), scale, bins=20)
    fy, fx = (2 * k / (n * scale) for k, n in zip(periods, size))
    frequency = math.hypot(fy, fx) / math.sqrt(2)
    loud = [edge for edge, value in zip(curve.frequency, curve.energy) if value > 1e-5]
    assert len(loud) == 1 and loud[0] - 1 / 20 - 1e-9 < frequency <= loud[0] + 1e-9
    before = [share for edge, share in zip(curve.frequency, curve.cumulative) if edge < loud[0]]
    assert max(before) < 1e-6 and curve.cumulative[-1] == pytest.approx(1)
    assert mean_frequency(mean_of(wave(*size, *periods)), scale) == pytest.approx(frequency, abs=1e-5)


def test_pattern_has_equal_frequency_in_both_groups() -> None:
    # A period of 8 high positions is one of 4 low positions.
    high, low = mean_of(wave(32, 32, 0, 4)), mean_of(wave(16, 16, 0, 4))
    assert mean_frequency(high, 1) == pytest.approx(mean_frequency(low, 2), abs=1e-6)
    assert mean_frequency(high, 1) == pytest.approx(0.25 / math.sqrt(2), abs=1e-6)


@pytest.mark.parametrize(("scale", "end"), [(1, 1.0), (2, 0.5)])
def test_white_noise_is_flat(scale: int, end: float) -> None:
    noise = torch.randn(4000, 1, 16, 15, generator=torch.Generator().manual_seed(0))
    spectrum = MeanSpectrum()
    for part in noise.split(1500):
        spectrum.add(part)
    curve = profile(spectrum.mean, scale, bins=16)
    assert spectrum.maps == 4000 and curve.frequency[0] == 0 and curve.frequency[-1] == end
    assert curve.energy == pytest.approx([scale**2] * len(curve.energy), rel=0.08)
    assert curve.cumulative == sorted(curve.cumulative) and curve.cumulative[-1] == pytest.approx(1)


def test_mean_of_a_map_is_at_frequency_0() -> None:
    curve = profile(mean_of(torch.full((6, 5), -3.0)), bins=4)
    assert curve.frequency == [0, 0.25, 0.5, 0.75, 1]
    assert curve.energy == pytest.approx([30, 0, 0, 0, 0], abs=1e-5) and curve.cumulative[0] == pytest.approx(1)


def test_maps_have_equal_weight() -> None:
    spectrum = MeanSpectrum()
    strong, weak = 1000 * wave(8, 8, 1, 0), 0.001 * wave(8, 8, 3, 0)
    clip = torch.stack([strong, weak, torch.zeros(8, 8), weak])
    spectrum.add(clip.view(1, 2, 2, 8, 8))
    assert (spectrum.maps, spectrum.silent) == (4, 1)
    mean = spectrum.mean
    assert mean.sum() == pytest.approx(1)
    assert mean[1, 0] + mean[7, 0] == pytest.approx(1 / 3) and mean[3, 0] + mean[5, 0] == pytest.approx(2 / 3)


def test_maps_of_another_size_are_refused() -> None:
    spectrum = MeanSpectrum()
    spectrum.add(torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(2, 4\)"):
        spectrum.add(torch.ones(1, 1, 2, 4))
