"""Turn spectra of ``octvideo.analysis.frequency`` into numbers, a table and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from octvideo.analysis.frequency import Spectrum
from octvideo.analysis.spectrum import mean_frequency, profile, radial_frequency
from octvideo.plotting import drawing, to_png

__all__ = ["as_csv", "as_numbers", "draw"]

_COLUMNS = ("layer", "group", "frequency", "energy", "cumulative", "maps")
_COLORS = {"baseline": "tab:gray", "plain": "tab:green", "high": "tab:orange", "low": "tab:blue"}
_DECADES = 5  # of energy to draw, from the largest down
_EDGE = 2.3  # size of a panel, inches


def as_numbers(spectra: Sequence[Spectrum], bins: int) -> list[dict[str, Any]]:
    """Return one dictionary per group. ``above_half``: share of energy above 0.5, which the low group cannot have."""
    rows = []
    for found in spectra:
        mean = found.energy.mean
        curve = profile(mean, found.scale, bins)
        height, width = mean.shape
        beyond = radial_frequency(height, width, found.scale) > 0.5 + 1e-9
        rows.append(
            {
                "layer": found.layer,
                "group": found.group,
                "size": [height, width],
                "maps": found.energy.maps,
                "silent": found.energy.silent,
                "mean_frequency": mean_frequency(mean, found.scale),
                "above_half": float(mean[beyond].sum()),
                **curve._asdict(),
            }
        )
    return rows


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return a CSV with one line per group and frequency: layer, group, frequency, energy, cumulative, maps."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        for frequency, energy, cumulative in zip(row["frequency"], row["energy"], row["cumulative"]):
            numbers = (f"{frequency:.6g}", f"{energy:.6g}", f"{cumulative:.6f}")
            writer.writerow([row["layer"], row["group"], *numbers, row["maps"]])
    return text.getvalue()


def draw(spectra: Sequence[Spectrum], rows: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG. Each layer has a row: energy by frequency, cumulative energy, and a 2D spectrum per group."""
    layers: dict[str, list[tuple[Spectrum, dict[str, Any]]]] = {}
    for found, row in zip(spectra, rows):
        layers.setdefault(found.layer, []).append((found, row))
    with drawing(layers, {"axes.grid": False, "text.parse_math": True}) as plt:  # powers of 10
        content = to_png(_figure(plt, layers), dpi=80)
    picture = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").quantize(256).save(picture, "png", optimize=True)  # a third
    return picture.getvalue()


def _figure(plt: Any, layers: Mapping[str, Sequence[tuple[Spectrum, dict[str, Any]]]]) -> Any:
    from matplotlib.colors import LogNorm

    wide = [1.5, 1.5, *[1] * max(map(len, layers.values()))]
    figure, panels = plt.subplots(
        len(layers),
        len(wide),
        figsize=(_EDGE * sum(wide) + 1, _EDGE * len(layers) + 0.6),
        width_ratios=wide,
        squeeze=False,
        layout="constrained",
    )
    top = max(max(row["energy"]) for groups in layers.values() for _, row in groups) or 1.0  # if all maps are silent
    shades = LogNorm(top / 10**_DECADES, top)
    for (energy, cumulative, *maps), (layer, groups) in zip(panels, layers.items()):
        for found, row in groups:
            style = dict(color=_COLORS[found.group], label=found.group, marker=".", markersize=4)
            energy.semilogy(row["frequency"], row["energy"], **style)
            cumulative.plot(row["frequency"], row["cumulative"], **style)
        energy.set(ylabel=f"{layer}\nenergy", xlim=(-0.02, 1.02))
        cumulative.set(ylabel="share below", xlim=(-0.02, 1.02), ylim=(0, 1.03))
        for panel in (energy, cumulative):
            panel.axvline(0.5, color="black", linewidth=0.6, linestyle=":")
            panel.grid(alpha=0.3)
        energy.legend(fontsize=8)
        for panel, (found, _) in zip(maps, groups):
            image = _map(panel, found, shades)
        for panel in maps[len(groups) :]:
            panel.set_axis_off()
    panels[0][0].set_title("energy by frequency", fontsize=10)
    panels[0][1].set_title("cumulative energy", fontsize=10)
    for panel in panels[-1][:2]:
        panel.set_xlabel("frequency")
    figure.colorbar(image, ax=panels[:, -1], label="energy (white noise: 1)", shrink=0.9)
    return figure


def _map(panel: Any, found: Spectrum, shades: Any) -> Any:
    """Draw the spectrum with frequency 0 in the middle, in units of the high group's Nyquist frequency."""
    mean = found.energy.mean
    height, width = mean.shape
    density = torch.fft.fftshift(mean).numpy() * mean.numel() * found.scale**2
    # Coefficient k of n is at 2 k / (n * scale); its pixel extends half a step to each side.
    left, right, bottom, top = (
        (2 * (start - 0.5) / (size * found.scale))
        for size in (width, height)
        for start in (-(size // 2), -(size // 2) + size)
    )
    image = panel.imshow(density, norm=shades, extent=(left, right, top, bottom), cmap="viridis")
    panel.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    panel.set_title(f"{found.group}, {height}x{width}", fontsize=9)
    return image
