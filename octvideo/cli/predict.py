"""``demo/predict.py``: predict the actions in videos, folders of videos, URLs, a camera or a stream."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from octvideo.cli import to_json
from octvideo.cli.answers import show
from octvideo.cli.arguments import path_arg, positive_int, positive_number
from octvideo.cli.network_options import add_model_arguments, predictor_from
from octvideo.cli.predict_live import predict_live
from octvideo.cli.predict_many import add_many_arguments, check_many_arguments, predict_into_file
from octvideo.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from octvideo.inference import Predictor
    from octvideo.inference.features import AddFeatures
    from octvideo.inference.videos import Video

__all__ = ["find", "main", "parse"]

S = TypeVar("S")
T = TypeVar("T")


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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options; end the program where they do not go together."""
    parser = argparse.ArgumentParser(
        prog="octvideo predict",
        description=__doc__.split(": ", 1)[1],
        epilog="Exit code: 0; 2 if something could not be predicted.",
    )
    parser.add_argument(
        "source", nargs="*", metavar="VIDEO|FOLDER|LIST|URL|GLOB", help="videos; a quoted GLOB such as 'clips/**/*.mp4'"
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
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object per video (per prediction with --webcam); those of a minute or more get segments",
    )
    parser.add_argument("--top-k", type=positive_int, default=5, metavar="K", help="predictions shown (5)")
    parser.add_argument(
        "--every",
        type=positive_int,
        metavar="N",
        help="frames between predictions over time; default: a quarter of a window for segments, else half of one",
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
    add_many_arguments(parser)
    arguments = parser.parse_args(argv)
    check_many_arguments(parser, arguments)
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
    over_time = arguments.output or arguments.timeline or (arguments.json and not arguments.features)
    if arguments.every and not (over_time or arguments.per_window or arguments.webcam):
        parser.error("--every goes with --json, --output, --timeline, --per-window or --webcam")
    if arguments.per_window and not arguments.features:
        parser.error("--per-window goes with --features")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Predict and return the exit code.

    Raises:
        UserError: bad weights, configuration or output; a camera cannot be opened.
    """
    arguments = parse(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no partial file is left
    try:
        if arguments.webcam is not None:
            if arguments.output is not None:
                _check_output(arguments.output, arguments.webcam)
            return predict_live(arguments)
        return _predict_videos(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


def _predict_videos(arguments: argparse.Namespace) -> int:
    from octvideo.inference.sources import local_copy

    videos, failed = find(arguments)
    if not videos:
        return 2
    if arguments.output_jsonl:
        return predict_into_file(arguments, [video.name for video in videos], failed, predictor_from)
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


def find(arguments: argparse.Namespace) -> tuple[list[Video], int]:
    """Return the videos, each once, and the number of arguments that are none, which are reported."""
    from octvideo.inference.videos import find_videos

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    videos: dict[str, Video] = {}
    failed = 0
    for name in arguments.source:
        try:
            for video in find_videos(name, arguments.output, say, arguments.root):
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
    if not _is_over_time(path, source, predictor, arguments):
        show(record, source, predictions, sure, arguments.json)
        return
    from octvideo.inference.annotated_video import annotate_video
    from octvideo.inference.timeline import predict_timeline, to_records, write_timeline

    timeline = predict_timeline(path, predictor, every=arguments.every)
    record["segments"] = to_records(timeline.segments)
    show(record, source, predictions, sure, arguments.json)  # even if the files cannot be written
    if arguments.timeline is not None:
        write_timeline(arguments.timeline, timeline.segments, source)
        print(f"{source}: timeline in {arguments.timeline}", file=sys.stderr)
    if output is not None:
        annotate_video(path, output, timeline, predictor, top_k=arguments.top_k)
        print(f"{source}: annotated video in {output}", file=sys.stderr)


def _is_over_time(path: Path, source: str, predictor: Predictor, arguments: argparse.Namespace) -> bool:
    """Tell whether a video gets segments. They need every frame, so short videos get them only if asked for."""
    if arguments.output is not None or arguments.timeline is not None:
        return True
    from octvideo.data.media import is_image
    from octvideo.inference.timeline import is_long

    return arguments.json and not is_image(source) and (bool(arguments.every) or is_long(path, predictor))


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
