"""Read MXNet's ``.params`` files, of Gluon and of symbols, without MXNet.

Little-endian, as ``NDArray::Save`` in MXNet's ``src/ndarray/ndarray.cc`` writes it::

    uint64 0x112, uint64 0, uint64 number of arrays
    each array:  uint32 magic   0xF993fac9 (V2) or 0xF993faca (V3): int32 storage type, 0 = dense, follows
                                0xF993fac8 (V1): nothing follows
                 int32 dimensions, int64 each;   int32 device, int32 its number;   int32 type;   the numbers
    uint64 number of names;  each: uint64 length, bytes
"""

from __future__ import annotations

import struct
import tarfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

__all__ = ["MAGIC", "read_params", "read_tar"]

MAGIC = struct.pack("<Q", 0x112)
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_TYPES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8")


def read_params(file: BinaryIO) -> dict[str, Tensor]:
    """Return the arrays of a file by name, without the prefixes ``arg:`` and ``aux:`` of symbols.

    Raises:
        ValueError: another format, a file that is cut short, or sparse arrays.
    """
    if file.read(8) != MAGIC:
        raise ValueError("not a list of MXNet arrays")
    _, count = _numbers(file, "QQ")
    arrays = [_array(file) for _ in range(count)]
    (count,) = _numbers(file, "Q")
    names = [_exactly(file, *_numbers(file, "Q")).decode() for _ in range(count)]
    if len(names) != len(arrays):
        raise ValueError(f"{len(arrays)} arrays and {len(names)} names")
    return {name.removeprefix("arg:").removeprefix("aux:"): array for name, array in zip(names, arrays)}


def read_tar(path: Path) -> dict[str, Tensor]:
    """Return the arrays of the one ``.params`` in a tar archive; {} if it has none, as in old files of torch.save.

    Raises:
        ValueError: several such files, or see ``read_params``.
    """
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile() and member.name.endswith(".params")]
        if len(members) > 1:
            raise ValueError(f"it has {len(members)} .params files; unpack it and give one")
        file = archive.extractfile(members[0]) if members else None
        return {} if file is None else read_params(file)  # type: ignore[arg-type]


def _array(file: BinaryIO) -> Tensor:
    (magic,) = _numbers(file, "I")
    if magic not in (_V1, _V2, _V3):
        raise ValueError(f"an array begins with {magic:#x}, an unknown version of the format")
    if magic != _V1 and _numbers(file, "i") != (0,):
        raise ValueError("sparse arrays are not read")
    (dimensions,) = _numbers(file, "i")
    if dimensions < (0 if magic == _V3 else 1):
        return torch.empty(0)  # no array: nothing follows
    shape = _numbers(file, f"{dimensions}q")
    _, _, kind = _numbers(file, "iii")
    dtype = np.dtype(f"<{_TYPES[kind]}")
    content = _exactly(file, int(np.prod(shape)) * dtype.itemsize)
    return torch.from_numpy(np.frombuffer(content, dtype).reshape(shape).copy())


def _numbers(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(f"<{form}", _exactly(file, struct.calcsize(f"<{form}")))


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise ValueError("the file is cut short")
    return content
