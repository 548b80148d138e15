"""``demo/predict.py``: predict the actions in a video, a folder of videos, a URL, a camera or a stream."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.cli import to_json
from octvideo.cli.arguments import path_arg, positive_int, positive_seconds
from octvideo.errors import UserError, one_line

if TYPE_CHECKING:
    from octvideo.inference import Prediction, Predictor

__all__ = ["add_model_arguments", "main"]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network and its backend; ``predictor_from`` reads them."""
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights; default: the small model that ships with octvideo"
    )
    parser.add_argument("--cfg", metavar="FILE", help="configuration; needed only if the checkpoint has none")
    parser.add_argument("--backend", default="torch", choices=("torch", "openvino", "onnxruntime"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="for the torch backend")
    parser.add_argument(
        "--views",
        type=positive_int,
        metavar="N",
        help="clips of a video to average; default: TEST.NUM_CLIPS",
    )


def predictor_from(arguments: argparse.Namespace) -> Predictor:
    """Return the predictor that the options of ``add_model_arguments`` describe."""
    # Torch takes seconds to import: --help and wrong arguments come first.
    from octvideo.inference import Predictor

    return Predictor(
        checkpoint=arguments.checkpoint,
        cfg=arguments.cfg,
        backend=arguments.backend,
        device=arguments.device,
        views=arguments.views,
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description=__doc__.split(": ", 1)[1],
        epilog="Exit code: 0; 2 if something could not be predicted.",
    )
    parser.add_argument("source", nargs="?", metavar="VIDEO|FOLDER|URL")
    parser.add_argument(
        "--webcam", metavar="N", help="a camera's number (0 is the first), or the URL or path of a stream"
    )
    parser.add_argument(
        "--output", type=path_arg, metavar="FILE.mp4", help="write the annotated video; for a folder, a folder"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per video (per prediction with --webcam)")
    parser.add_argument("--top-k", type=positive_int, default=5, metavar="K", help="predictions shown (5)")
    parser.add_argument(
        "--every", type=positive_int, metavar="N", help="frames between predictions over time; default: half a window"
    )
    parser.add_argument("--frames", type=positive_int, metavar="N", help="with --webcam: stop after N frames")
    parser.add_argument("--max-seconds", type=positive_seconds, metavar="S", help="with --webcam: stop after S seconds")
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    if "" in (arguments.source, arguments.webcam):
        parser.error("the name of the video is empty")
    if (arguments.source is None) == (arguments.webcam is None):
        parser.error("give a VIDEO, a FOLDER or a URL, or else --webcam N")
    if arguments.webcam is None and (arguments.frames or arguments.max_seconds):
        parser.error("--frames and --max-seconds go with --webcam")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Predict and return the exit code.

    Raises:
        UserError: the source, or all of it, cannot be read; bad weights or configuration.
    """
    arguments = _parse(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no partial file is left
    try:
        if arguments.webcam is not None:
            return _predict_stream(arguments)
        if Path(arguments.source).is_dir():
            return _predict_folder(arguments)
        return _predict_source(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


def _predict_source(arguments: argparse.Namespace) -> int:
    from octvideo.inference.sources import local_copy

    _check_output(arguments.output, arguments.source)
    with local_copy(arguments.source) as path:
        _predict_file(path, arguments.source, arguments.output, predictor_from(arguments), arguments)
    return 0


def _check_output(output: Path | None, source: str) -> None:
    if output is None:
        return
    if output.suffix.lower() != ".mp4":
        raise UserError(f"--output {output}: give a name that ends in .mp4")
    if Path(source).exists() and output.resolve() == Path(source).resolve():
        raise UserError(f"--output {output}: this is the input video; give another name")


def _predict_file(
    path: Path, source: str, output: Path | None, predictor: Predictor, arguments: argparse.Namespace
) -> None:
    """Predict, annotate and print one video; messages call the file ``path`` by the user's name for it, ``source``."""
    with _naming(path, source):
        predictions = predictor.predict(path, arguments.top_k)
        _show({"video": source}, source, predictions, arguments.json)  # even if the video cannot be written
        if output is not None:
            from octvideo.inference.stream import annotate_video

            annotate_video(path, output, predictor, top_k=arguments.top_k, every=arguments.every)
    if output is not None:
        print(f"{source}: annotated video in {output}", file=sys.stderr)


@contextlib.contextmanager
def _naming(path: Path, source: str) -> Iterator[None]:
    """Make errors about a downloaded copy name its address."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(path), source)) from None


def _predict_folder(arguments: argparse.Namespace) -> int:
    from octvideo.data.media import passed_over_text
    from octvideo.inference.sources import find_videos

    folder, output = Path(arguments.source), arguments.output
    if output is not None and (output.suffix.lower() == ".mp4" or output.is_file()):
        raise UserError(f"--output {output}: {folder} is a folder, so the output is a folder too; give a folder's name")
    passed_over: Counter[str] = Counter()
    videos = find_videos(folder, output, passed_over)
    if passed_over:
        print(f"{folder}: {passed_over_text(passed_over)}", file=sys.stderr)
    targets = dict(zip(videos, _targets(videos, folder, output), strict=True))
    predictor = predictor_from(arguments)
    failed = 0
    for video in videos:
        try:
            _predict_file(video, str(video), targets[video], predictor, arguments)
        except UserError as error:
            failed += 1
            print(f"error: {one_line(error)}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(videos)} videos could not be predicted", file=sys.stderr)
    return 2 if failed else 0


def _targets(videos: Sequence[Path], folder: Path, output: Path | None) -> list[Path | None]:
    """Return the file of each annotated video, in the same subfolders; names that clash keep their old suffix."""
    if output is None:
        return [None] * len(videos)
    plain = [output / video.relative_to(folder).with_suffix(".mp4") for video in videos]
    targets = [
        path if plain.count(path) == 1 else path.with_name(f"{video.name}.mp4")
        for path, video in zip(plain, videos, strict=True)
    ]
    if {target.resolve() for target in targets} & {video.resolve() for video in videos}:
        raise UserError(f"--output {output}: this would overwrite the input videos; give another folder")
    return list(targets)


def _predict_stream(arguments: argparse.Namespace) -> int:
    from octvideo.inference.sources import open_camera

    if arguments.output is not None:
        _check_output(arguments.output, arguments.webcam)
    # The camera first: a wrong number is reported before torch is imported.
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_camera(arguments.webcam))
        from octvideo.inference.overlay import VideoWriter
        from octvideo.inference.stream import predict_stream

        predictor = predictor_from(arguments)
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
                record = {"video": arguments.webcam, "frame": update.frame, "time": round(update.seconds, 3)}
                _show(record, f"{update.seconds:8.2f} s", update.predictions, arguments.json, compact=True)
        except KeyboardInterrupt:  # the file is complete
            print("stopped", file=sys.stderr)
    return 0


def _show(record: dict, title: str, predictions: Sequence[Prediction], as_json: bool, *, compact: bool = False) -> None:
    if as_json:
        found = [{"label": label, "score": round(score, 6)} for label, score in predictions]
        print(to_json(record | {"predictions": found}), flush=True)
    elif compact:
        print(title, " | ".join(f"{label} {100 * score:.1f} %" for label, score in predictions), flush=True)
    else:
        print(title)
        for label, score in predictions:
            print(f"  {100 * score:5.1f} %  {'#' * round(20 * score):20}  {label}", flush=True)
