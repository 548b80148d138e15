"""The installed command ``octvideo COMMAND ...``: the same code as ``tools/`` and ``demo/``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import octvideo
from octvideo.cli import run
from octvideo.errors import UserError

__all__ = ["entry", "main"]

COMMANDS = {
    "train": "train on a folder of your own videos, and report",
    "run-net": "train and test a configuration",
    "complexity": "parameters and multiply-adds of a configuration; the paper's tables",
    "compare": "train and test twins over alphas and seeds, and write one table",
    "predict": "predict the actions in videos, cameras and streams",
    "app": "the same in a browser",
    "export": "write a trained network as ONNX, OpenVINO or a torch.export program",
    "convert": "write a checkpoint for PyTorchVideo, as safetensors, or another project's as octvideo's",
    "benchmark": "measure speed compared with an alternative",
    "analyze-frequency": "Fourier energy of a network's feature maps by group",
    "visualize": "pictures of clips, feature maps, Grad-CAM, curves, comparisons and mistakes",
    "submit": "run on SLURM, long commands such as predict as many tasks",
    "check-videos": "decode every video of a list to its end, and name the broken ones",
    "env": "versions, decoders and devices of this machine, for a report of a problem",
}


def _help() -> str:
    commands = "\n".join(f"  {name:19s}{text}" for name, text in COMMANDS.items())
    return f"usage: octvideo COMMAND [--help] ...\n\n{octvideo.__doc__}\n\ncommands:\n{commands}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"octvideo {octvideo.__version__}")
        return 0
    name = arguments[0].replace("_", "-")
    if name not in COMMANDS:
        raise UserError(f"octvideo {arguments[0]}: no such command; the commands are {', '.join(COMMANDS)}")
    module = import_module(f"octvideo.cli.{name.replace('-', '_')}")
    return module.main(arguments[1:]) or 0


def entry() -> None:
    """Run as the console script."""
    sys.exit(run(main))
