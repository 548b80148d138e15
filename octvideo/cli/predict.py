"""``demo/predict.py``: predict the actions in videos, folders of videos, URLs, a camera or a stream."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from octvideo.cli import to_json
from octvideo.cli.arguments import model_name, path_arg, positive_int, positive_number, probability
from octvideo.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from octvideo.inference import Prediction, Predictor
    from octvideo.inference.features import AddFeatures
    from octvideo.inference.videos import Video
    from octvideo.inference.window import Window

__all__ = ["add_model_arguments", "describe", "main"]

S = TypeVar("S")
T = TypeVar("T")
_CLASSES_SHOWN = 12


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network and its backend; ``predictor_from`` reads them."""
    parser.add_argument(
        "--model", type=model_name, metavar="NAME", help="a network by name, such as x3d_s, with its published weights"
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights; default: the small model that ships with octvideo"
    )
    parser.add_argument("--cfg", metavar="FILE", help="configuration; needed only if the checkpoint has none")
    parser.add_argument(
        "--backend",
        default="auto",
        choices=("auto", "torch", "openvino", "onnxruntime"),
        help="auto: OpenVINO on a CPU, if the network was converted before or many clips are ahead; else torch",
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="for the torch backend"
    )
    parser.add_argument(
        "--views",
        type=positive_int,
        metavar="N",
        help="clips of a video to average; default: TEST.NUM_CLIPS",
    )
    parser.add_argument(
        "--threshold",
        type=probability,
        metavar="T",
        help='probability, 0 to 1, below which the answer is "not sure"; 0 = off; default: that of the weights, if any',
    )


def predictor_from(arguments: argparse.Namespace, videos: float) -> Predictor:
    """Return the predictor that the options of ``add_model_arguments`` describe, and say what it knows.

    Args:
        arguments: the options.
        videos: number of videos to expect, ``math.inf`` where there is no end.
    """
    # Torch takes seconds to import: --help and wrong arguments come first.
    from octvideo.inference import Predictor

    predictor = Predictor(
        checkpoint=arguments.checkpoint,
        cfg=arguments.cfg,
        backend=arguments.backend,
        device=arguments.device,
        views=arguments.views,
        threshold=arguments.threshold,
        model=arguments.model,
        videos=videos,
    )
    print(describe(predictor), file=sys.stderr)
    print(f"backend: {predictor.backend}", file=sys.stderr)
    return predictor


def describe(predictor: Predictor) -> str:
    """Return the name of the network and its classes, shortened."""
    names = list(predictor.classes)
    if len(names) > _CLASSES_SHOWN:
        names = [*names[: _CLASSES_SHOWN - 1], "..."]
    return f"{predictor.name} knows {len(predictor.classes)} classes: {', '.join(names)}"


def _feature_file(text: str) -> Path:
    path = path_arg(text)
    if path.suffix not in (".npz", ".parquet"):
        raise argparse.ArgumentTypeError(f"{text} must end in .npz or .parquet")
    return path


def _timeline_file(text: str) -> Path:
    path = path_arg(text)
    if path.suffix not in (".csv", ".json", ".png"):
        raise argparse.ArgumentTypeError(f"{text} must end in .csv, .json or .png")
    return path


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description=__doc__.split(": ", 1)[1],
        epilog="Exit code: 0; 2 if something could not be predicted.",
    )
    parser.add_argument(
        "source", nargs="*", metavar="VIDEO|FOLDER|URL|GLOB", help="videos; a quoted GLOB such as 'clips/**/*.mp4'"
    )
    parser.add_argument(
        "--webcam",
        metavar="N",
        help="a camera's number (0 is the first), or the URL or path of a stream; octvideo[window] shows it",
    )
    parser.add_argument(
        "--output", type=path_arg, metavar="FILE.mp4", help="write the annotated video; for several videos, a folder"
    )
    parser.add_argument(
        "--timeline",
        type=_timeline_file,
        metavar="FILE",
        help="write the segments of one video with their times to FILE.csv, FILE.json or FILE.png",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per video (per prediction with --webcam)")
    parser.add_argument("--top-k", type=positive_int, default=5, metavar="K", help="predictions shown (5)")
    parser.add_argument(
        "--every",
        type=positive_int,
        metavar="N",
        help="frames between predictions over time; default: a quarter of a window for a timeline, else half of one",
    )
    parser.add_argument(
        "--features",
        type=_feature_file,
        metavar="FILE",
        help="write the vectors before the classifier to FILE.npz or FILE.parquet, in place of predictions",
    )
    parser.add_argument(
        "--per-window", action="store_true", help="with --features: a vector every --every frames, not per video"
    )
    parser.add_argument("--frames", type=positive_int, metavar="N", help="with --webcam: stop after N frames")
    parser.add_argument("--max-seconds", type=positive_number, metavar="S", help="with --webcam: stop after S seconds")
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    if "" in (*arguments.source, arguments.webcam):
        parser.error("the name of the video is empty")
    if bool(arguments.source) == (arguments.webcam is not None):
        parser.error("give VIDEOs, FOLDERs, URLs or GLOBs, or else --webcam N")
    if arguments.webcam is None and (arguments.frames or arguments.max_seconds):
        parser.error("--frames and --max-seconds go with --webcam")
    if arguments.features and (arguments.output or arguments.timeline or arguments.webcam):
        parser.error("--features goes with none of --output, --timeline and --webcam")
    if arguments.timeline and arguments.webcam:
        parser.error("--timeline goes with a file; a camera has no end")
    if arguments.features and arguments.backend not in ("auto", "torch"):
        parser.error("--features needs --backend torch: the other backends return logits only")
    if arguments.features:
        arguments.backend = "torch"
    if arguments.per_window and not arguments.features:
        parser.error("--per-window goes with --features")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Predict and return the exit code.

    Raises:
        UserError: bad weights, configuration or output; a camera cannot be opened.
    """
    arguments = _parse(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no partial file is left
    try:
        if arguments.webcam is not None:
            return _predict_stream(arguments)
        return _predict_videos(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


def _predict_videos(arguments: argparse.Namespace) -> int:
    from octvideo.inference.sources import local_copy

    videos, failed = _find(arguments)
    if not videos:
        return 2
    total = len(videos) + failed
    if arguments.timeline:
        _check_timeline(arguments.timeline, videos)
    targets = _targets(videos, arguments)
    predictor = predictor_from(arguments, len(videos))

    def open_video(video: Video) -> tuple[contextlib.ExitStack, Path, Tensor | None]:
        """Download a video if need be, and read its clips for a prediction."""
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(local_copy(video.name))
            stack.enter_context(_naming(path, video.name))
            clips = None if arguments.features else predictor.read(path)
            return stack.pop_all(), path, clips

    with _feature_writer(arguments.features, predictor) as add_features:
        for video, target, opened in zip(videos, targets, _ahead(open_video, videos), strict=True):
            try:
                stack, path, clips = opened()
                with stack:
                    if add_features is not None:
                        _extract_features(path, video.name, add_features, predictor, arguments)
                    elif clips is not None:
                        _predict_file(path, clips, video.name, target, predictor, arguments)
            except UserError as error:
                failed += 1
                print(f"error: {one_line(error)}", file=sys.stderr)
    if failed and total > 1:
        print(f"{failed} of {total} videos could not be predicted", file=sys.stderr)
    return 2 if failed else 0


def _ahead(function: Callable[[S], T], items: Sequence[S]) -> Iterator[Callable[[], T]]:
    """Yield for every item what returns ``function(item)``, which runs in a thread while the item before is used."""
    with ThreadPoolExecutor(1) as pool:
        results: deque[Future[T]] = deque()
        for item in items:
            results.append(pool.submit(function, item))
            if len(results) > 1:
                yield results.popleft().result
        yield results.popleft().result


def _find(arguments: argparse.Namespace) -> tuple[list[Video], int]:
    """Return the videos, each once, and the number of arguments that are none, which are reported."""
    from octvideo.inference.videos import find_videos

    videos: dict[str, Video] = {}
    failed = 0
    for name in arguments.source:
        try:
            for video in find_videos(name, arguments.output, lambda text: print(text, file=sys.stderr)):
                videos.setdefault(os.path.abspath(video.name), video)
        except UserError as error:
            failed += 1
            print(f"error: {one_line(error)}", file=sys.stderr)
    return list(videos.values()), failed


def _targets(videos: Sequence[Video], arguments: argparse.Namespace) -> list[Path] | list[None]:
    """Return the file of each annotated video: ``--output`` for one video, files in it for several."""
    from octvideo.inference.videos import is_single, output_files

    output, sources = arguments.output, arguments.source
    if output is None:
        return [None] * len(videos)
    if len(sources) == 1 and is_single(sources[0]):
        _check_output(output, sources[0])
        return [output]
    if output.suffix.lower() == ".mp4" or output.is_file():
        what = "several videos" if len(sources) > 1 else sources[0]
        raise UserError(f"--output {output}: the output for {what} is a folder; give a folder's name")
    return output_files(videos, output)


def _check_output(output: Path, source: str) -> None:
    if output.suffix.lower() != ".mp4":
        raise UserError(f"--output {output}: give a name that ends in .mp4")
    if Path(source).exists() and output.resolve() == Path(source).resolve():
        raise UserError(f"--output {output}: this is the input video; give another name")


def _check_timeline(path: Path, videos: Sequence[Video]) -> None:
    from octvideo.data.media import is_image

    if len(videos) > 1:
        raise UserError(f"--timeline {path}: holds one video, not {len(videos)}; run the command for each")
    if is_image(videos[0].name):
        raise UserError(f"{videos[0].name}: a picture has no timeline; give a video")
    if not path.parent.is_dir():
        raise UserError(f"--timeline {path}: there is no folder {path.parent}; create it first")


def _predict_file(
    path: Path,
    clips: Tensor,
    source: str,
    output: Path | None,
    predictor: Predictor,
    arguments: argparse.Namespace,
) -> None:
    """Predict, annotate and print one video, whose name for the user is ``source``."""
    predictions = predictor.predict_views(clips, arguments.top_k)
    sure = predictor.is_sure(predictions)
    record: dict[str, object] = {"video": source, "model": predictor.name}
    if output is None and arguments.timeline is None:
        _show(record, source, predictions, sure, arguments.json)
        return
    from octvideo.inference.annotated_video import annotate_video
    from octvideo.inference.timeline import predict_timeline, to_records, write_timeline

    timeline = predict_timeline(path, predictor, every=arguments.every)
    record["segments"] = to_records(timeline.segments)
    _show(record, source, predictions, sure, arguments.json)  # even if the files cannot be written
    if arguments.timeline is not None:
        write_timeline(arguments.timeline, timeline.segments, source)
        print(f"{source}: timeline in {arguments.timeline}", file=sys.stderr)
    if output is not None:
        annotate_video(path, output, timeline, predictor, top_k=arguments.top_k)
        print(f"{source}: annotated video in {output}", file=sys.stderr)


@contextlib.contextmanager
def _feature_writer(path: Path | None, predictor: Predictor) -> Iterator[AddFeatures | None]:
    if path is None:
        yield None
        return
    from octvideo.inference.features import writing_features

    with writing_features(path, predictor.name) as add:
        yield add
    print(f"features in {path}", file=sys.stderr)


def _extract_features(
    path: Path, source: str, add: AddFeatures, predictor: Predictor, arguments: argparse.Namespace
) -> None:
    features = predictor.features(path, per_window=arguments.per_window, every=arguments.every)
    add(source, features)
    count, size = features.vectors.shape
    if arguments.json:
        print(to_json({"video": source, "model": predictor.name, "vectors": count, "size": size}), flush=True)
    else:
        print(f"{source}: {count} x {size} features", flush=True)


@contextlib.contextmanager
def _naming(path: Path, source: str) -> Iterator[None]:
    """Make errors about a downloaded copy name its address."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(path), source)) from None


def _predict_stream(arguments: argparse.Namespace) -> int:
    from octvideo.inference.sources import open_camera

    if arguments.output is not None:
        _check_output(arguments.output, arguments.webcam)
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
                _show(record, title, update.predictions, update.sure, arguments.json, compact=True)
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


def _show(
    record: dict,
    title: str,
    predictions: Sequence[Prediction],
    sure: bool | None,
    as_json: bool,
    *,
    compact: bool = False,
) -> None:
    if as_json:
        found = [{"label": label, "score": round(score, 6)} for label, score in predictions]
        print(to_json(record | {"sure": sure, "predictions": found}), flush=True)
    elif compact:
        found_text = " | ".join(f"{label} {100 * score:.1f} %" for label, score in predictions)
        print(title, f"not sure (closest: {found_text})" if sure is False else found_text, flush=True)
    else:
        print(title)
        if sure is False:
            print(f"  not sure (closest: {predictions[0].label})")
        for label, score in predictions:
            print(f"  {100 * score:5.1f} %  {'#' * round(20 * score):20}  {label}", flush=True)
