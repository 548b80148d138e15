"""Write the report of a run: one HTML page that needs no network, with its pictures and clips as files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

import octvideo
from octvideo.analysis.pictures.curves import draw_page_curves
from octvideo.analysis.report_commands import next_commands
from octvideo.analysis.report_cost import cost_note, measure_costs, network_name
from octvideo.analysis.report_pictures import copy_small
from octvideo.analysis.report_results import Tested, per_class, worst_mistakes
from octvideo.analysis.report_run import Run
from octvideo.data.decoders.decode import DecodeError
from octvideo.engine.metrics import wilson_interval
from octvideo.files import write_bytes, write_text, writing

__all__ = ["write_report"]

_TEMPLATE = Path(__file__).resolve().parents[1] / "assets" / "report.html.jinja"
_MISTAKES = 6  # clips to show
_FILES = ("config.yaml", "test_config.yaml", "metrics.json", "predictions.csv", "confusion_matrix.csv", "log.jsonl")


class Score(NamedTuple):
    """Top-1 in percent with its 95 % interval, and what the most frequent class would get as a constant answer."""

    videos: int
    correct: int
    top1: float
    low: float
    high: float
    constant: float
    constant_class: str


class Picture(NamedTuple):
    """A picture of the page; ``paper``: it needs a white background."""

    file: str
    text: str
    paper: bool


class Mistake(NamedTuple):
    """A wrong answer, with its clip or why there is none."""

    video: Tested
    name: str
    file: str
    problem: str


def write_report(folder: Path) -> Path:
    """Write ``report.html`` and the files in ``report/``, from what a run has left in its folder; return the page.

    Raises:
        UserError: there is no run in the folder, or a file cannot be written.
    """
    run = Run(folder)
    with writing(folder / "report"):
        (folder / "report").mkdir(exist_ok=True)
    labelled = [video for video in run.tested if video.label]
    mistakes = worst_mistakes(labelled)
    shown = [_show(video, folder / "report" / f"mistake_{n}") for n, video in enumerate(mistakes[:_MISTAKES], 1)]
    pictures = _pictures(run, bool(labelled))
    costs = measure_costs(run.cfg)
    clip = next((video.path for video in run.tested if os.path.isfile(video.path)), "")
    page = _render(
        name=network_name(run.cfg),
        data_name=_short(run.source),
        score=_score(labelled),
        no_score="There is no accuracy: " + ("the videos have no labels." if run.tested else "nothing was tested."),
        chosen=run.is_chosen,
        warnings=run.data.get("warnings", []),
        facts=run.facts(),
        classes=per_class(labelled),
        pictures=pictures,
        mistakes=shown,
        num_mistakes=len(mistakes),
        costs=costs,
        cost_note=cost_note(costs, run.cfg),
        broken=run.broken(),
        commands=next_commands(run.cfg, folder, run.weights, run.is_own, clip),
        files=[name for name in _FILES if (folder / name).is_file()],
        version=octvideo.__version__,
        date=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    write_text(folder / "report.html", page)
    used = {Path(entry.file).name for entry in shown}
    for path in (folder / "report").glob("mistake_*"):  # of an earlier report
        if path.name not in used:
            path.unlink()
    return folder / "report.html"


def _score(labelled: Sequence[Tested]) -> Score | None:
    if not labelled:
        return None
    total, correct = len(labelled), sum(video.predicted == video.label for video in labelled)
    name, most = Counter(video.label for video in labelled).most_common(1)[0]
    low, high = wilson_interval(correct, total)
    return Score(total, correct, 100 * correct / total, low, high, 100 * most / total, name)


def _pictures(run: Run, is_labelled: bool) -> list[Picture]:
    """Write the confusion matrix that the test has drawn, and the curves of the training that made the weights."""
    pictures, target = [], run.folder / "report"
    matrix = run.folder / "confusion_matrix.png"
    if is_labelled and matrix.is_file():
        write_bytes(target / matrix.name, matrix.read_bytes())
        pictures.append(
            Picture(f"report/{matrix.name}", "Confusion matrix: rows are labels, columns predictions", True)
        )
    if run.curves.loss:
        write_bytes(target / "curves.svg", draw_page_curves(run.curves))
        pictures.append(Picture("report/curves.svg", "Training loss, learning rate and top-1 against steps", False))
    return pictures


def _show(video: Tested, target: Path) -> Mistake:
    """Write a small copy of a video that was classified wrongly."""
    try:
        file, problem = f"report/{copy_small(video.path, target).name}", ""
    except DecodeError as error:
        file, problem = "", error.reason
    return Mistake(video, _short(video.path), file, problem)


def _short(path: str) -> str:
    """Return the last two parts of a path: ``weizmann/val.csv``, ``bend/clip.avi``."""
    return "/".join(Path(path).parts[-2:])


def _render(**content: Any) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["percent"] = lambda value: f"{value:.1f}\u00a0%"
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(content)
