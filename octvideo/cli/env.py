"""``octvideo env``: versions, decoders and devices of this machine, for a report of a problem."""

from __future__ import annotations

import argparse
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import Distribution

__all__ = ["main"]

_PACKAGES = "octvideo torch torchvision pytorchvideo numpy av decord torchcodec openvino onnxruntime nncf".split()


def main(argv: Sequence[str] | None = None) -> None:
    """Print them, one a line."""
    argparse.ArgumentParser(prog="octvideo env", description=__doc__.split(": ", 1)[1]).parse_args(argv)
    import torch

    from octvideo.benchmarking.timing import hardware
    from octvideo.data.decoders import decord, stream, torchcodec

    works = {
        "decord": decord.is_installed(),
        "pyav": stream.PYAV >= stream.OLDEST_PYAV,
        "torchcodec": not torchcodec.why_not(),
    }
    machine = hardware()
    rows = {
        **{name: next((found.version for found in Distribution.discover(name=name)), "-") for name in _PACKAGES},
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "decoders": ", ".join(name for name, is_there in works.items() if is_there),
        "ffmpeg": shutil.which("ffmpeg") or "-",
        "CPU": f"{machine['cpu']}, {machine['cores']} cores, {torch.backends.cpu.get_cpu_capability()}",
        "GPU": f"{machine['gpu'] or 'none that torch finds'} (CUDA {torch.version.cuda or '-'})",
    }
    for name, value in rows.items():
        print(f"{name:14s}{value}")
