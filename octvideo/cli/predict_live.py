"""``predict --webcam``: a camera or a stream, in a window, as lines or as JSON."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from typing import TYPE_CHECKING

from octvideo.cli.answers import show
from octvideo.cli.network_options import predictor_from
from octvideo.errors import UserError

if TYPE_CHECKING:
    from octvideo.inference import Predictor
    from octvideo.inference.window import Window

__all__ = ["predict_live"]


def predict_live(arguments: argparse.Namespace) -> int:
    """Predict what ``--webcam`` names until it ends, and return the exit code.

    Raises:
        UserError: it cannot be opened, or is lost; bad weights or configuration; the output cannot be written.
    """
    from octvideo.inference.sources import open_camera

    failure: UserError | None = None
    with contextlib.ExitStack() as stack:
        # The camera first: a wrong number is reported before torch is imported.
        reader = stack.enter_context(open_camera(arguments.webcam))
        from octvideo.inference.overlay import VideoWriter
        from octvideo.inference.stream import predict_stream
        from octvideo.inference.window import open_window

        window = None if arguments.json or arguments.output else open_window()
        predictor = predictor_from(arguments, math.inf)
        if window is not None:
            reader.close()
            _watch(window, predictor, arguments)
            return 0
        if reader.live:  # what has waited meanwhile would come all at once, at a wrong time
            reader.close()
            reader = stack.enter_context(open_camera(arguments.webcam))
        writer = stack.enter_context(VideoWriter(arguments.output, reader.fps)) if arguments.output else None
        updates = predict_stream(
            reader,
            predictor,
            top_k=arguments.top_k,
            every=arguments.every,
            max_frames=arguments.frames,
            max_seconds=arguments.max_seconds,
            writer=writer,
        )
        try:
            for update in updates:
                record = {"video": arguments.webcam, "model": predictor.name}
                record |= {"frame": update.frame, "time": round(update.seconds, 3)}
                title = f"{update.seconds:8.2f} s"
                show(record, title, update.predictions, update.sure, arguments.json, compact=True)
        except KeyboardInterrupt:  # the file is complete
            print("stopped", file=sys.stderr)
        except UserError as error:  # a camera is lost: what was recorded is kept
            failure = error
    if failure is not None:
        raise failure
    return 0


def _watch(window: Window, predictor: Predictor, arguments: argparse.Namespace) -> None:
    from octvideo.inference.live import LiveStream
    from octvideo.inference.window import watch

    print("keys in the window: q quits, space pauses, m mirrors", file=sys.stderr)
    stream = LiveStream(
        arguments.webcam,
        predictor,
        top_k=arguments.top_k,
        every=arguments.every,
        max_frames=arguments.frames,
        max_seconds=arguments.max_seconds,
    )
    try:
        with stream, contextlib.closing(window):
            watch(stream, window)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
