"""Choose the backend that is done first: PyTorch at once, or OpenVINO after a conversion."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.backends.cache import is_kept, network_key
from octvideo.backends.runners import Runner, create_runner
from octvideo.errors import UserError, one_line

__all__ = ["MANY_CLIPS", "prepare"]

MANY_CLIPS = 64  # from about as many on a conversion pays (docs/performance.md)


def prepare(
    backend: str, model: nn.Module, cfg: CfgNode, clip_shape: Sequence[int], device: torch.device, clips: float
) -> tuple[Runner, str]:
    """Prepare a network to run, and say in words what was chosen.

    ``"auto"`` is OpenVINO on a CPU if the network was converted before, or if a conversion pays; else PyTorch.

    Args:
        backend: ``"auto"`` or one of ``BACKENDS``.
        model: the network, in evaluation mode.
        cfg: its configuration.
        clip_shape: (T, H, W) of the clips.
        device: of PyTorch.
        clips: number of clips to expect, ``math.inf`` for a camera.

    Raises:
        UserError: as ``create_runner``. With ``"auto"`` a network that cannot be converted runs in PyTorch.
    """
    has_openvino = importlib.util.find_spec("openvino") is not None
    key = network_key(model, cfg, clip_shape) if backend in ("auto", "openvino") and has_openvino else ""
    if backend != "auto":
        return create_runner(backend, model, clip_shape, device, key=key), backend
    if device.type != "cpu":
        reason = str(device)
    elif not has_openvino:
        reason = "OpenVINO is faster: pip install openvino"
    elif is_kept(key) or clips >= MANY_CLIPS:
        how = "converted before" if is_kept(key) else "converted now, once"
        try:
            return create_runner("openvino", model, clip_shape, device, key=key), f"openvino ({how})"
        except UserError as error:
            reason = one_line(error)
    else:
        reason = f"OpenVINO is faster from {MANY_CLIPS} clips on"
    return create_runner("torch", model, clip_shape, device), f"torch ({reason})"
