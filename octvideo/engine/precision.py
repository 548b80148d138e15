"""Number formats that a network computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["autocast", "has_bf16_kernels"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to ``"bf16"`` or ``"fp16"``; do nothing for ``"fp32"``."""
    return torch.autocast(device.type, _DTYPES[precision]) if precision in _DTYPES else nullcontext()


def has_bf16_kernels() -> bool:
    """Whether oneDNN convolves in bf16 on this CPU. PyTorch's fallback takes one image after the other."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
