"""Read Caffe2's pickles of arrays (PySlowFast's and the non-local networks' model zoos) without running anything."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

__all__ = ["is_caffe2", "read_caffe2"]


def is_caffe2(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a pickle, and not an old one of torch.save.

    Files of torch.save are zip archives; old ones are pickles that begin with a certain whole number (LONG1).
    """
    return start[:1] == b"\x80" and start[2:3] != b"\x8a"


def read_caffe2(file: BinaryIO) -> dict[str, Tensor]:
    """Return the arrays of a pickle, which may be under ``blobs``, without those of the optimizer.

    Raises:
        pickle.UnpicklingError: it has something else than arrays and plain Python values.
        ValueError: it has no names.
    """
    payload = _ArraysOnly(file, encoding="latin1").load()
    blobs = payload.get("blobs", payload) if isinstance(payload, Mapping) else None
    if not isinstance(blobs, Mapping):
        raise ValueError("no arrays by name")
    return {
        key: torch.from_numpy(np.array(value))
        for key, value in blobs.items()
        if isinstance(value, np.ndarray) and not key.endswith("_momentum") and key not in ("lr", "model_iter")
    }


class _ArraysOnly(pickle.Unpickler):
    _ALLOWED = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
        "numpy.core.multiarray.scalar": np.float64(0).__reduce__()[0],
        "collections.OrderedDict": OrderedDict,
        "_codecs.encode": lambda text, encoding: text.encode(encoding),  # bytes of Python 3 in an old protocol
    }

    def find_class(self, module: str, name: str) -> Any:
        known = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if known in self._ALLOWED:
            return self._ALLOWED[known]
        raise pickle.UnpicklingError(f"it has {module}.{name}, and only arrays are read")
