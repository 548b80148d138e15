"""The options that choose a network and its backend, for ``predict`` and ``app``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from octvideo.cli.arguments import model_name, positive_int, probability

if TYPE_CHECKING:
    from octvideo.inference import Predictor

__all__ = ["add_model_arguments", "describe", "predictor_from"]

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
