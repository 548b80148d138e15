"""The commands that use the result of a run, quoted for a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from fvcore.common.config import CfgNode

from octvideo.models.checkpoints import is_url

__all__ = ["next_commands", "program"]


def program() -> str:
    """Return ``octvideo``, or its path where the shell would not find it."""
    installed = Path(sys.executable).with_name("octvideo")
    return "octvideo" if shutil.which("octvideo") or not installed.is_file() else shlex.quote(str(installed))


def next_commands(cfg: CfgNode, folder: Path, weights: str, is_own: bool, clip: str) -> list[tuple[str, str]]:
    """Return what each command does, and the command.

    Args:
        cfg: the configuration that ``folder`` was made with.
        folder: of the run.
        weights: path or URL of the tested checkpoint.
        is_own: whether the run in the folder has made the weights; others may lack a configuration.
        clip: path of a video; "" for none.
    """
    octvideo, folder = program(), folder.resolve()
    network = ["--checkpoint", weights if is_url(weights) else os.path.abspath(weights)]
    if not is_own:
        network += ["--cfg", str(folder / "test_config.yaml")]
    clip = os.path.abspath(clip) if clip else "CLIP.mp4"
    config = folder / ("config.yaml" if is_own else "test_config.yaml")
    again = ["run-net", "--cfg", str(config), "OUTPUT_DIR", f"{folder}-again"]
    place = f"cd {shlex.quote(os.getcwd())} && " if _has_relative_paths(cfg) else ""
    return [
        ("Predict a clip, a folder or a URL:", f"{octvideo} {shlex.join(['predict', clip, *network])}"),
        ("The same in a browser:", f"{octvideo} {shlex.join(['app', *network])}"),
        (
            "Export the network for OpenVINO (or --format onnx, torch-export):",
            f"{octvideo} "
            + shlex.join(["export", *network, "--format", "openvino", "--output", str(folder / "network.xml")]),
        ),
        ("Repeat this run, in a folder beside it:", f"{place}{octvideo} {shlex.join(again)}"),
    ]


def _has_relative_paths(cfg: CfgNode) -> bool:
    data = cfg.DATA
    paths = [data.TRAIN, data.VAL, data.TEST, data.ROOT, data.CLASSES, cfg.TRAIN.CHECKPOINT, cfg.TEST.CHECKPOINT]
    return any(path and not os.path.isabs(path) and os.path.exists(path) for path in paths)
