"""Quantise a network to 8 bits after training, with NNCF."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from octvideo.backends.openvino_runner import core
from octvideo.backends.runners import quiet
from octvideo.errors import UserError

__all__ = ["quantise"]


def quantise(model: Any, clips: Sequence[Tensor]) -> Any:
    """Return an ``openvino.Model`` whose convolutions compute in int8; the classifier stays in float32.

    NNCF's fast bias correction is off: it can double the error of an octave network (docs/decisions.md).

    Args:
        model: an ``openvino.Model``; it is left as it was.
        clips: normalised clips ``(1, 3, T, H, W)``, from which the ranges of all feature maps are taken.

    Raises:
        UserError: NNCF is not installed.
    """
    try:
        with quiet():  # it warns of PyTorch's version and of CUDA, which it does not use here
            import nncf
    except ImportError:
        raise UserError("nncf is needed for int8: install it with: pip install 'octvideo[int8]'") from None
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    core()  # NNCF makes cores of its own, which must end before this one
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(
            model.clone(),
            nncf.Dataset([clip.contiguous().numpy() for clip in clips]),
            subset_size=len(clips),
            ignored_scope=nncf.IgnoredScope(names=[node.get_friendly_name() for node in products[-1:]]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
