"""``tools/convert.py``: write a checkpoint for PyTorchVideo, as safetensors, or another project's as octvideo's."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from octvideo.cli.arguments import path_arg
from octvideo.errors import UserError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and return 0.

    Raises:
        UserError: bad weights or configuration, a file that cannot be written, weights that the target cannot hold.
    """
    parser = argparse.ArgumentParser(prog="octvideo convert", description=__doc__.split(": ", 1)[1])
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="path or URL, of octvideo or another project (docs/checkpoints.md)",
    )
    parser.add_argument("--cfg", metavar="FILE", help="configuration; needed only if the checkpoint has none")
    parser.add_argument(
        "--format",
        required=True,
        choices=("pytorchvideo", "safetensors", "octvideo"),
        help="pytorchvideo: a state dict with the hub's keys under model_state, alpha 0 only; safetensors: the same "
        "keys at any alpha, with configuration and classes; octvideo: a checkpoint that needs no --cfg",
    )
    parser.add_argument("--output", required=True, type=path_arg, metavar="FILE")
    arguments = parser.parse_args(argv)

    from octvideo.engine.checkpoints import save_checkpoint
    from octvideo.engine.networks import load_network, octave_plan
    from octvideo.files import write_bytes

    network = load_network(arguments.checkpoint, arguments.cfg)
    cfg = network.cfg
    about: dict[str, Any] = {"plan": octave_plan(network.model).as_dict(), "classes": list(network.classes)}
    if network.threshold is not None:
        about["confidence"] = {"threshold": network.threshold}
    if network.seen is not None:
        about["seen"] = network.seen
    state = {key: value.contiguous() for key, value in network.model.state_dict().items()}
    if arguments.format == "pytorchvideo":
        for key in ("ALPHA", "FAST_ALPHA"):
            if cfg.OCTAVE[key]:
                raise UserError(
                    f"{arguments.checkpoint}: OCTAVE.{key} is {cfg.OCTAVE[key]:g}: PyTorchVideo's vanilla network "
                    "would give other results with these weights; use --format safetensors or octvideo"
                )
        save_checkpoint({"model_state": state}, arguments.output)
    elif arguments.format == "octvideo":
        save_checkpoint({"model": state, "config": cfg.dump(), **about}, arguments.output)
    else:
        try:
            from safetensors.torch import save
        except ImportError:
            raise UserError(
                "safetensors is not installed; install it with: pip install 'octvideo[safetensors]'"
            ) from None
        metadata = {"format": "pt", "config": cfg.dump()}
        metadata |= {name: json.dumps(value) for name, value in about.items()}
        write_bytes(arguments.output, save(state, metadata), parents=True)
    print(f"{arguments.checkpoint}: {network.report}")
    print(f"{arguments.output}: {arguments.format}, {arguments.output.stat().st_size / 1e6:.1f} MB")
    return 0
