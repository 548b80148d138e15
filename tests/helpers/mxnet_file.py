"""Write MXNet's ``.params`` from the format's description, without the reader's code."""

from __future__ import annotations

import struct

import numpy as np

CODES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def params(arrays: dict[str, np.ndarray], magic: int = 0xF993FAC9, storage: int = 0) -> bytes:
    """Return a file with these arrays by name; ``storage`` other than 0 marks them as sparse."""
    parts = [(0x112).to_bytes(8, "little"), bytes(8), len(arrays).to_bytes(8, "little")]
    for array in arrays.values():
        parts.append(magic.to_bytes(4, "little"))
        if magic != 0xF993FAC8:
            parts.append(storage.to_bytes(4, "little"))
        parts.append(array.ndim.to_bytes(4, "little"))
        parts += [edge.to_bytes(8, "little") for edge in array.shape]
        parts.append(struct.pack("<iii", 1, 0, CODES[array.dtype.name]) + array.tobytes())  # the CPU is device 1
    parts.append(len(arrays).to_bytes(8, "little"))
    for name in arrays:
        parts += [len(name).to_bytes(8, "little"), name.encode()]
    return b"".join(parts)
