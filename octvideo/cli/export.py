"""``tools/export.py``: write a network as ONNX, OpenVINO or torch.export file, and check the file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from octvideo.cli.arguments import path_arg

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Export and return the exit code: 1 if the exported file gives other results.

    Raises:
        UserError: bad weights or configuration, a missing package, a name that does not fit the format.
    """
    parser = argparse.ArgumentParser(prog="export.py", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--cfg", metavar="FILE", help="configuration; needed only if the checkpoint has none")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights; default: the small model that ships with octvideo"
    )
    parser.add_argument("--format", required=True, choices=("onnx", "openvino", "torch-export"))
    parser.add_argument("--output", required=True, type=path_arg, metavar="FILE", help=".onnx, .xml or .pt2")
    arguments = parser.parse_args(argv)

    import torch

    from octvideo.inference.backends import TOLERANCE, load_exported, relative_difference, save_exported
    from octvideo.inference.weights import load_network

    network = load_network(arguments.checkpoint, arguments.cfg)
    shape = network.clip_shape
    save_exported(network.model, shape, arguments.format, arguments.output)
    exported = load_exported(arguments.format, arguments.output)
    clips = torch.randn(3, 3, *shape, generator=torch.Generator().manual_seed(0))
    parts = clips.split([2, 1])  # the file takes any number of clips
    with torch.inference_mode():
        expected = torch.cat([network.model(part) for part in parts])
    difference = relative_difference(torch.cat([exported(part) for part in parts]), expected)
    files = [arguments.output]
    if arguments.format == "openvino":
        files.append(arguments.output.with_suffix(".bin"))
    size = sum(file.stat().st_size for file in files)
    print(f"{arguments.output}: {arguments.format}, {size / 1e6:.1f} MB, clips (N, 3, {', '.join(map(str, shape))})")
    print(f"largest difference of logits on random clips: {difference:.1e} of the largest logit")
    if not difference <= TOLERANCE:  # nan is not
        print(
            f"error: {arguments.output}: do not use this file: its logits differ from PyTorch's by more than "
            f"{TOLERANCE:g} of the largest logit",
            file=sys.stderr,
        )
        return 1
    return 0
