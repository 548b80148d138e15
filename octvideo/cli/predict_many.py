"""``predict --output-jsonl FILE``: many videos into one file, resumed after a kill, in one process or in several."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from octvideo.cli.arguments import add_part_arguments, core_count, path_arg, positive_int
from octvideo.errors import UserError
from octvideo.parts import Part

if TYPE_CHECKING:
    from octvideo.inference import Predictor

__all__ = ["add_many_arguments", "check_many_arguments", "predict_into_file"]

_ALONE = ("output", "timeline", "features", "webcam", "json", "every")


def add_many_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``predict_into_file`` reads."""
    group = parser.add_argument_group("many videos")
    group.add_argument(
        "--output-jsonl",
        type=path_arg,
        metavar="FILE",
        help="write one JSON object per video, in order; the same command resumes after a kill. Exit code: 0 when each "
        "video has its line, those that cannot be predicted with an error",
    )
    group.add_argument(
        "--output-parquet", type=path_arg, metavar="FILE", help="with --output-jsonl: the same as Parquet"
    )
    group.add_argument("--root", default="", metavar="DIR", help="folder of the relative paths of a LIST")
    group.add_argument(
        "--workers",
        type=positive_int,
        default=max(1, core_count() // 2),
        metavar="N",
        help="with --output-jsonl: processes that read videos ahead; default: one for every two cores",
    )
    add_part_arguments(group)


def check_many_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with a message where options do not go together."""
    if arguments.output_jsonl is None:
        if arguments.output_parquet or arguments.part or arguments.merge:
            parser.error("--output-parquet, --part and --merge go with --output-jsonl")
    elif given := [name for name in _ALONE if getattr(arguments, name)]:
        parser.error(f"--output-jsonl does not go with --{given[0]}")


def predict_into_file(
    arguments: argparse.Namespace,
    videos: Sequence[str],
    failed: int,
    predictor_from: Callable[[argparse.Namespace, float], Predictor],
) -> int:
    """Predict into ``--output-jsonl`` and return the exit code: 0 when each video has its line.

    Several processes, of torchrun or srun, share the videos. The one that ends last writes the file.

    Args:
        arguments: the options.
        videos: paths and URLs, each once.
        failed: number of arguments that name no video; they count in the exit code.
        predictor_from: makes the predictor from the options and the number of videos.

    Raises:
        UserError: as ``predict_many``.
    """
    from octvideo.engine.ranks import find_place
    from octvideo.inference.many import predict_many, write_parquet

    file, parquet, place = arguments.output_jsonl, arguments.output_parquet, find_place(os.environ)
    if parquet:
        _require_pyarrow()
    part = Part(place.rank + 1, place.size, place.size) if place.size > 1 else arguments.part
    if part is not arguments.part and (arguments.part or arguments.merge):
        raise UserError(f"--part and --merge are for one process; torchrun or srun has started {place.size}")

    def make_predictor(backend: str | None) -> Predictor:
        if place.size > 1:
            _choose_gpu(place.local)
        if backend is not None and arguments.backend == "auto":
            arguments.backend = backend
        return predictor_from(arguments, len(videos))

    def predict(part: Part | None, merge: bool) -> int:
        return predict_many(
            videos,
            file,
            make_predictor,
            _run_of(arguments),
            top_k=arguments.top_k,
            part=part,
            merge=merge,
            workers=arguments.workers,
        )

    errors = predict(part, arguments.merge)
    if part is not None:
        print(f"{file}: part {part.number} of {part.total} is done, {errors} videos failed", file=sys.stderr)
        if place.size == 1:
            return 2 if failed else 0
        try:
            errors = predict(None, True)
        except UserError:  # another process still works on its part, and will write the file
            return 0
    if parquet:
        write_parquet(file, parquet)
    print(f"{file}: {len(videos)} videos, {errors} of them could not be predicted", file=sys.stderr)
    return 2 if failed else 0


def _run_of(arguments: argparse.Namespace) -> str:
    """Return the fingerprint of the network and the options that decide what a line says."""
    import octvideo
    from octvideo.config import load_cfg
    from octvideo.inference.many import fingerprint

    cfg = load_cfg(arguments.cfg).dump() if arguments.cfg else None
    settings = (arguments.model, cfg, arguments.views, arguments.threshold, arguments.top_k)
    return fingerprint(arguments.checkpoint or f"octvideo {octvideo.__version__}", *settings)


def _choose_gpu(local: int) -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())


def _require_pyarrow() -> None:
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:  # before hours of work, not after them
        raise UserError("pyarrow is needed for Parquet; install it with: pip install 'octvideo[parquet]'")
