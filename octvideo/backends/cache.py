"""Networks converted to OpenVINO, kept on disk: what takes seconds to make is read in a fraction of one.

``$XDG_CACHE_HOME/octvideo/networks`` (``~/.cache`` if unset) has a folder for each, named by a hash of all that it was
made from. What is kept is the graph and its weights. OpenVINO compiles them anew at each start, for this CPU, its
threads, and any number of clips, so none of these is part of the name.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.backends.openvino_runner import core
from octvideo.config import with_keys
from octvideo.errors import one_line

__all__ = ["MOST_BYTES", "cache_folder", "is_kept", "keep_network", "network_key", "read_network"]

MOST_BYTES = 4 << 30  # of all networks; beyond that those not used for longest go
_ABANDONED = 86_400  # seconds after which an unfinished folder is of a process that was killed
_FILE = "network.xml"


def cache_folder() -> Path:
    """Return the folder of all networks."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "octvideo", "networks")


def network_key(model: nn.Module, cfg: CfgNode, clip_shape: Sequence[int]) -> str:
    """Return the name of a network in the cache: a hash of architecture, weights, (T, H, W) of clips, and versions."""
    settings = with_keys(cfg, {"MODEL.CONV_AS_2D": False})  # exports do not depend on it
    digest = hashlib.sha256(f"{settings.MODEL.dump()}{settings.OCTAVE.dump()}{tuple(clip_shape)}{_versions()}".encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


@lru_cache(maxsize=1)
def _versions() -> str:
    """Return the versions of what makes a network, and a hash of the code here that does."""
    package = Path(__file__).resolve().parents[1]
    code = hashlib.sha256()
    for part in ("models", "octave", "backends"):
        for path in sorted((package / part).rglob("*.py")):
            code.update(path.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("torch", "pytorchvideo", "openvino")]
    return f"{versions} {code.hexdigest()}"


def is_kept(key: str) -> bool:
    """Return whether the cache has a network."""
    return (cache_folder() / key / _FILE).exists()


def read_network(key: str) -> Any | None:
    """Return the ``openvino.Model`` of a name; None if there is none. One that cannot be read is removed."""
    folder = cache_folder() / key
    if not is_kept(key):
        return None
    openvino_core = core()
    try:
        model = openvino_core.read_model(folder / _FILE)
    except Exception:  # it depends on what is broken
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)
    return model


def keep_network(key: str, model: Any) -> str:
    """Write an ``openvino.Model`` under its name, whole or not at all, and return why it could not be; else "".

    If another process was faster, its network stays.
    """
    import openvino

    folder = cache_folder()
    partial = folder / f".{os.getpid()}.{key}"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, partial / _FILE, compress_to_fp16=False)
        for path in partial.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(folder / key)
        if not is_kept(key):
            return "the folder cannot be renamed"
        _prune(folder, key)
    except (OSError, RuntimeError) as error:
        return one_line(error)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ""


def _prune(folder: Path, newest: str) -> None:
    """Remove networks beyond ``MOST_BYTES``, those used last excepted, and what a killed process left."""
    entries = []
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):  # another process removes too
            used, size = entry.stat().st_mtime, sum(path.stat().st_size for path in entry.iterdir())
            if not entry.name.startswith("."):
                entries.append((entry.name != newest, -used, size, entry))
            elif used < time.time() - _ABANDONED:
                shutil.rmtree(entry, ignore_errors=True)
    total = 0
    for is_older, _, size, entry in sorted(entries):
        total += size
        if is_older and total > MOST_BYTES:
            shutil.rmtree(entry, ignore_errors=True)
