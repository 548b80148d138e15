"""Write a video file with its predictions over time below the picture."""

from __future__ import annotations

from pathlib import Path

from octvideo.inference.overlay import VideoWriter, annotate, draw_strip
from octvideo.inference.prediction import top_predictions
from octvideo.inference.predictor import Predictor
from octvideo.inference.sources import FrameReader
from octvideo.inference.timeline import Timeline, show_progress

__all__ = ["annotate_video"]


def annotate_video(source: Path, output: Path, timeline: Timeline, predictor: Predictor, *, top_k: int) -> int:
    """Write a video file with the predictions and the timeline below every frame, at the frames' own times.

    Args:
        source: a video file.
        output: the .mp4 to write.
        timeline: that of the file, see ``predict_timeline``.
        predictor: the network that predicted it.
        top_k: number of classes shown.

    Returns:
        The number of frames written.

    Raises:
        UserError: a file cannot be read or written.
    """
    strip = None
    with (
        FrameReader(str(source), folder_fps=predictor.folder_fps) as reader,
        VideoWriter(output, reader.fps) as writer,
        show_progress(reader, "annotated") as progress,
    ):
        for index, frame in enumerate(reader):
            if strip is None:
                strip = draw_strip(timeline.segments, frame.shape[1], frame.shape[0])
            scores = timeline.scores[min(index // timeline.every, len(timeline.scores) - 1)]
            found = top_predictions(scores, timeline.classes, top_k)
            position = reader.time / timeline.times[-1]
            picture = annotate(frame, found, sure=predictor.is_sure(found), strip=strip, position=position)
            writer.write(picture, reader.time)
            progress()
        return writer.frames
