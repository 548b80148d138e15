"""``tools/export.py``: write a network as ONNX, OpenVINO or torch.export file, and check the file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octvideo.cli.arguments import model_name, path_arg

if TYPE_CHECKING:
    from octvideo.engine.networks import Network

__all__ = ["main"]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="octvideo export", description=__doc__.split(": ", 1)[1])
    parser.add_argument(
        "--model", type=model_name, metavar="NAME", help="a network by name, such as x3d_s, with its published weights"
    )
    parser.add_argument("--cfg", metavar="FILE", help="configuration; needed only if the checkpoint has none")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights; default: the small model that ships with octvideo"
    )
    parser.add_argument("--format", required=True, choices=("onnx", "openvino", "torch-export"))
    parser.add_argument("--output", required=True, type=path_arg, metavar="FILE", help=".onnx, .xml or .pt2")
    parser.add_argument(
        "--precision",
        default="f32",
        choices=("f32", "bf16", "int8", "auto"),
        help="for openvino; auto: the fastest on this CPU that loses at most half a point of top-1",
    )
    parser.add_argument(
        "--calibrate", metavar="PATH", help="a list or class folders of videos: int8 takes its ranges from them"
    )
    parser.add_argument(
        "--test", metavar="PATH", help="a list or class folders, for the accuracy before and after (--calibrate)"
    )
    arguments = parser.parse_args(argv)
    if arguments.precision == "f32":
        if arguments.calibrate or arguments.test:
            parser.error("--calibrate and --test go with --precision bf16, int8 or auto")
    elif arguments.format != "openvino":
        parser.error(f"--precision {arguments.precision} needs --format openvino")
    elif not arguments.calibrate:
        parser.error(f"--precision {arguments.precision} needs --calibrate PATH: some of your videos")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Export and return the exit code: 1 if the exported file gives other results.

    Raises:
        UserError: bad weights, configuration or videos, a missing package, a name that does not fit the format.
    """
    arguments = _parse(argv)
    from octvideo.engine.networks import load_network

    network = load_network(arguments.checkpoint, arguments.cfg, model=arguments.model)
    files: list[Path] = [arguments.output]
    if arguments.format == "openvino":
        files.append(arguments.output.with_suffix(".bin"))
    precision, measured = _write(network, arguments)
    size = sum(file.stat().st_size for file in files)
    shape = ", ".join(map(str, network.clip_shape))
    print(f"{arguments.output}: {arguments.format}, {precision}, {size / 1e6:.1f} MB, clips (N, 3, {shape})")
    if measured:
        print(f"top-1 on {measured['num_videos'] - measured['num_failed']} videos of {measured['list']}, and a clip:")
        for name, top1 in measured["top1"].items():
            print(f"  {name:5}{top1:6.1f} % {measured['clip_ms'][name]:8.1f} ms")
        return 0
    return _check(network, arguments)


def _write(network: Network, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Write the file; return its precision, and what was measured."""
    from octvideo.backends.runners import openvino_file, openvino_model, save_exported
    from octvideo.inference.exported import describe_network

    precision: str = arguments.precision
    measured: dict[str, Any] = {}
    if arguments.format != "openvino":
        save_exported(network.model, network.clip_shape, arguments.format, arguments.output)
        return precision, measured
    with openvino_file(arguments.output) as save:
        if precision == "f32":
            model = openvino_model(network.model, network.clip_shape)
        else:
            from octvideo.benchmarking.precisions import in_precision

            test = arguments.test or arguments.calibrate
            model, precision, measured = in_precision(network, precision, arguments.calibrate, test)
        describe_network(model, network, precision, measured)
        save(model)
    return precision, measured


def _check(network: Network, arguments: argparse.Namespace) -> int:
    """Compare the logits of the file with those of PyTorch."""
    import torch

    from octvideo.backends.runners import TOLERANCE, load_exported, relative_difference

    exported = load_exported(arguments.format, arguments.output)
    clips = torch.randn(3, 3, *network.clip_shape, generator=torch.Generator().manual_seed(0))
    parts = clips.split([2, 1])  # the file takes any number of clips
    with torch.inference_mode():
        expected = torch.cat([network.model(part) for part in parts])
    difference = relative_difference(torch.cat([exported(part) for part in parts]), expected)
    print(f"largest difference of logits on random clips: {difference:.1e} of the largest logit")
    if not difference <= TOLERANCE:  # nan is not
        print(
            f"error: {arguments.output}: do not use this file: its logits differ from PyTorch's by more than "
            f"{TOLERANCE:g} of the largest logit",
            file=sys.stderr,
        )
        return 1
    return 0
