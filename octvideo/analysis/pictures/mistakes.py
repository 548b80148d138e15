"""Show the worst mistakes of a run: a strip of frames each, the true class and the answer."""

from __future__ import annotations

from pathlib import Path

from octvideo.analysis.pictures.sheet import Cell, Strip, some
from octvideo.analysis.report_results import Tested, worst_mistakes
from octvideo.analysis.report_run import Run
from octvideo.data.decoders.decode import DecodeError, open_video
from octvideo.errors import UserError
from octvideo.plotting import shortened

__all__ = ["mistake_strips"]

_MISTAKES = 8
_FRAMES = 6  # of a video
_LONGEST = 60  # letters of a class name


def mistake_strips(run: Run) -> tuple[str, list[Strip]]:
    """Return a title, and a strip for each of the most certain wrong answers.

    Raises:
        UserError: nothing was tested, no video has a label, or all answers are right.
    """
    if not run.tested:
        raise UserError(f"{run.folder}: no test results yet (predictions.csv); test this run first (TEST.ENABLE True)")
    labelled = [video for video in run.tested if video.label]
    if not labelled:
        raise UserError(f"{run.folder}: the tested videos have no labels, so no answer is known to be wrong")
    mistakes = worst_mistakes(labelled)
    if not mistakes:
        raise UserError(f"{run.folder}: all {len(labelled)} answers are right, there is no mistake to show")
    title = f"{run.folder.resolve().name}: {len(mistakes)} of {len(labelled)} answers are wrong"
    if len(mistakes) > _MISTAKES:
        title += f"; the {_MISTAKES} most certain"
    return title, [_strip(video, run) for video in mistakes[:_MISTAKES]]


def _strip(video: Tested, run: Run) -> Strip:
    answer = f"{shortened(video.predicted, _LONGEST)}, {100 * video.score:.0f} %"
    lines = [f"true: {shortened(video.label, _LONGEST)}", f"answer: {answer}", Path(video.path).name]
    try:
        with open_video(video.path, run.cfg.DATA.DECODER, fps=run.cfg.DATA.FPS) as opened:
            numbers = some(len(opened), _FRAMES)
            frames = opened.frames(numbers)
            cells = [Cell(frame, f"{time:.2f} s") for time, frame in zip(opened.seconds(numbers), frames)]
    except DecodeError as error:
        return Strip("\n".join([*lines[:2], f"{lines[2]}: no picture ({error.reason})"]), [])
    return Strip("\n".join(lines), cells)
