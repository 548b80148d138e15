"""Draw accuracy against multiply-adds over alphas, as the paper's Figure 3, from runs or from a table."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from octvideo.analysis.report_run import Run
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.octave.complexity import count
from octvideo.plotting import drawing, line_style, shortened, to_png

__all__ = ["Result", "draw_comparison", "read_results"]

_COLUMNS = ("model", "alpha", "gflops", "top1")
_Point = tuple[float, float]  # alpha and multiply-adds: the same alpha may be rounded to other multiples of channels
_LONGEST = 60  # letters of a network's name


class Result(NamedTuple):
    """The accuracy of one run.

    Attributes:
        model: the network; those of one name are joined by a line.
        alpha: share of its low-frequency channels.
        gflops: billions of multiply-adds of one clip.
        top1: in percent.
    """

    model: str
    alpha: float
    gflops: float
    top1: float


def read_results(sources: Sequence[Path]) -> list[Result]:
    """Return the results of runs (folders) and of tables (.csv files with the columns model, alpha, gflops and top1).

    The multiply-adds of a run are those of one clip at the training size, as ``octvideo complexity`` counts them.

    Raises:
        UserError: no run in a folder, a run without test results, a table that lacks columns or has no numbers in them.
    """
    results: list[Result] = []
    for source in sources:
        results += _from_table(source) if source.is_file() else [_from_run(Run(source))]
    return results


def _from_run(run: Run) -> Result:
    top1 = run.metrics.get("top1")
    if top1 is None:
        raise UserError(f"{run.folder}: no accuracy yet; test this run on labelled videos first (TEST.ENABLE True)")
    cfg, size = run.cfg, run.cfg.DATA.TRAIN_CROP
    cost = count(build_model(cfg), (1, 3, cfg.DATA.NUM_FRAMES, size, size))
    return Result(cfg.MODEL.ARCH, cfg.OCTAVE.ALPHA, cost.as_dict()["gflops"], top1)


def _from_table(path: Path) -> list[Result]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or [])]:
            raise UserError(f"{path}: no column {missing[0]}; a table to compare has the columns {', '.join(_COLUMNS)}")
        results = [_row(row, f"{path}:{rows.line_num}") for row in rows]
    if not results:
        raise UserError(f"{path}: the table has no rows")
    return results


def _row(row: dict[str, str], place: str) -> Result:
    numbers = []
    for name in _COLUMNS[1:]:
        try:
            numbers.append(float(row[name]))
        except (TypeError, ValueError):
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise UserError(f"{place}: {name} is {row[name]!r}; give a number")
    return Result(row["model"], *numbers)


def draw_comparison(results: Iterable[Result]) -> bytes:
    """Return a PNG: a line per network, a point per alpha; the mean over runs with their standard deviation."""
    networks: dict[str, dict[_Point, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        networks[result.model][result.alpha, result.gflops].append(result)
    names = [shortened(name, _LONGEST) for name in networks]
    with drawing(names) as plt:
        figure, panel = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
        for number, (name, points) in enumerate(zip(names, networks.values())):
            _draw_line(panel, dict(sorted(points.items())), {**line_style(number), "label": name})
        panel.margins(x=0.15, y=0.12)
        panel.set(xlabel="multiply-adds of one clip, billions", ylabel="top-1, %: mean and standard deviation")
        figure.legend(loc="outside upper left", ncols=2 if max(map(len, names)) < 40 else 1)
        return to_png(figure)


def _draw_line(panel: Any, points: Mapping[_Point, Sequence[Result]], look: Mapping[str, Any]) -> None:
    """Draw a network: each run as a dot, their means as a line with error bars."""
    x = [gflops for _, gflops in points]
    y = [mean(run.top1 for run in runs) for runs in points.values()]
    spread = [stdev(run.top1 for run in runs) if len(runs) > 1 else math.nan for runs in points.values()]
    panel.errorbar(x, y, yerr=spread, **look, linewidth=1.4, markersize=5, capsize=3)
    dots = [run for runs in points.values() for run in runs]
    panel.plot([run.gflops for run in dots], [run.top1 for run in dots], ".", color=look["color"], alpha=0.4)
    page = dict(facecolor="white", edgecolor="none", alpha=0.8, pad=1)
    for ((alpha, _), runs), place in zip(points.items(), zip(x, y)):
        text = f"α {alpha:g}" + (f", N = {len(runs)}" if len(runs) > 1 else "")
        panel.annotate(text, place, (7, 5), textcoords="offset points", fontsize=7, bbox=page)
