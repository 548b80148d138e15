"""``tools/export.py``: writes a network as ONNX, OpenVINO or torch.export file, and checks what it wrote."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from octvideo.cli.predict import named

__all__ = ["main"]

_TOLERANCE = 1e-3  # largest difference of logits, relative to the largest logit where that is above 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code: 1 where the exported file gives other results.

    Raises:
        UserError: bad weights or configuration, a missing package, a name that does not fit the format.
    """
    parser = argparse.ArgumentParser(prog="export.py", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--cfg", metavar="FILE", help="configuration; needed only where the checkpoint has none")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights; default: the small model that ships with octvideo"
    )
    parser.add_argument("--format", required=True, choices=("onnx", "openvino", "torch-export"))
    parser.add_argument("--output", required=True, type=named, metavar="FILE", help=".onnx, .xml or .pt2")
    arguments = parser.parse_args(argv)

    import torch

    from octvideo.inference.backends import load_exported, save_exported
    from octvideo.inference.weights import load_network

    as_2d = False if arguments.format == "openvino" else None
    network = load_network(arguments.checkpoint, arguments.cfg, as_2d=as_2d)
    shape = network.clip_shape
    save_exported(network.model, shape, arguments.format, arguments.output)
    exported = load_exported(arguments.format, arguments.output)
    clips = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    difference, largest = 0.0, 0.0
    for views in (clips, clips[:1]):  # the number of clips is free in the file
        with torch.inference_mode():
            expected = network.model(views)
        difference = max(difference, (exported(views) - expected).abs().max().item())
        largest = max(largest, expected.abs().max().item())
    files = [arguments.output]
    if arguments.format == "openvino":
        files.append(arguments.output.with_suffix(".bin"))
    size = sum(file.stat().st_size for file in files)
    good = difference <= _TOLERANCE * max(1.0, largest)
    print(f"{arguments.output}: {arguments.format}, {size / 1e6:.1f} MB, clips (N, 3, {', '.join(map(str, shape))})")
    print(f"largest difference of logits on random clips: {difference:.2e} (logits up to {largest:.2f})")
    if not good:
        print("the exported network does not agree with the original")
    return 0 if good else 1
