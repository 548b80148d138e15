"""Draw the curves of trainings: loss, learning rate and top-1 against steps."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octvideo.analysis.report_results import Curves, read_curves
from octvideo.errors import UserError
from octvideo.plotting import GREY, drawing, line_style, shortened, to_png

__all__ = ["draw_curves", "draw_page_curves", "read_runs"]

_LONGEST = 80  # letters of a run's name
_MOST_MARKERS = 12  # per curve
# Readable on a light page and on a dark one.
_LOSS, _RATE, _VAL = "#e0803a", "#8a74d8", "#2f8fd0"


def read_runs(folders: Sequence[Path]) -> dict[str, Curves]:
    """Return the curves of runs by the names of their folders; of equal names by the whole paths.

    Raises:
        UserError: a folder has no log of a training.
    """
    names = Counter(folder.resolve().name for folder in folders)
    runs: dict[str, Curves] = {}
    for folder in folders:
        curves = read_curves(folder / "log.jsonl")
        if not curves.loss:
            raise UserError(f"{folder}: no log of a training (log.jsonl); give the OUTPUT_DIR of one")
        name = folder.resolve().name
        runs[name if names[name] == 1 else str(folder)] = curves
    return runs


def draw_page_curves(curves: Curves) -> bytes:
    """Return the curves of one run as SVG for a page. The background is transparent."""
    style = {
        **{f"{part}.color": GREY for part in ("text", "xtick", "ytick", "grid")},
        **{"axes.labelcolor": GREY, "axes.edgecolor": GREY, "svg.fonttype": "none", "svg.hashsalt": "octvideo"},
    }
    with drawing(style=style) as plt:
        figure, panels = _panels(plt, 5.2)
        figure.subplots_adjust(left=0.17, right=0.97, top=0.98, bottom=0.09, hspace=0.28)
        loss, rate, top1 = panels
        loss.plot(*_columns(curves.loss), color=_LOSS, linewidth=1.4)
        rate.plot(*_columns(curves.rate), color=_RATE, linewidth=1.4)
        rate.set_ylim(0, None)
        top1.plot(*_columns(curves.train_top1), color=GREY, alpha=0.45, linewidth=1, label="training batches")
        if curves.val_top1:
            top1.plot(*_columns(curves.val_top1), color=_VAL, linewidth=1.8, marker="o", ms=4, label="validation")
        top1.legend(loc="lower left", bbox_to_anchor=(0, 0.97), ncols=2)
        for panel in panels:
            panel.yaxis.set_label_coords(-0.15, 0.5)
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})
    return picture.getvalue()


def draw_curves(runs: Mapping[str, Curves]) -> bytes:
    """Return the curves of several runs as PNG. The top-1 of training batches is a thin line.

    Args:
        runs: by name.
    """
    names = [shortened(name, _LONGEST) for name in runs]
    with drawing(names) as plt:
        figure, panels = _panels(plt, 7.5)
        loss, rate, top1 = panels
        lines = []
        for number, curves in enumerate(runs.values()):
            look = line_style(number)
            lines += _plot(loss, curves.loss, look)
            _plot(rate, curves.rate, look)
            _plot(top1, curves.train_top1, {**look, "marker": "", "alpha": 0.4}, width=0.8)
            _plot(top1, curves.val_top1, look, width=1.8)
        rate.set_ylim(0, None)
        top1.set_title("thick: validation; thin: training batches", fontsize=7, loc="left")
        figure.align_ylabels(panels)
        figure.set_layout_engine("constrained")
        figure.legend(lines, names, loc="outside upper left", ncols=2 if max(map(len, names)) < 40 else 1)
        return to_png(figure)


def _panels(plt: Any, width: float) -> tuple[Any, Any]:
    """Return a figure with a panel each for loss, rate and top-1."""
    figure, panels = plt.subplots(3, figsize=(width, 5.2), sharex=True, height_ratios=(3, 2, 3))
    loss, rate, top1 = panels
    loss.set(ylabel="training loss")
    rate.set(ylabel="learning rate")
    top1.set(ylabel="top-1, %", xlabel="step", ylim=(0, 102))
    return figure, panels


def _plot(panel: Any, points: Sequence[tuple[int, float]], look: Mapping[str, Any], width: float = 1.4) -> Any:
    every = max(1, len(points) // _MOST_MARKERS)
    return panel.plot(*_columns(points), **look, linewidth=width, markersize=4, markevery=every)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
