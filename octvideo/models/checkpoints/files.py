"""Files of weights, by path or URL: what is in them is read as data; nothing in them is run."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from torch import Tensor

from octvideo.download import download
from octvideo.errors import UserError
from octvideo.models.checkpoints.published.mxnet import MAGIC, read_params

__all__ = ["is_url", "local_file", "read_checkpoint", "state_of"]

# The torch hub's habit, `name-0123abcd.pth`: the first digits of the SHA-256. Eight decimal digits may be a date.
_HASH = re.compile(r"-((?!(?:19|20)\d{6}\.)[0-9a-f]{8,64})\.[A-Za-z]+$")


def is_url(source: str | Path) -> bool:
    """Whether it is to be downloaded."""
    return str(source).lower().startswith(("http://", "https://"))


def local_file(source: str | Path) -> Path:
    """The path of a checkpoint; a URL is downloaded once, into torch's folder (``torch.hub.get_dir()``/checkpoints).

    The SHA-256 is checked where the name ends in ``-HASH`` as the torch hub's do, or the URL in ``#sha256=HASH``.

    Raises:
        UserError: the name is empty; the download fails, is cut short, or has another hash, and nothing is kept then.
    """
    if source == "":
        raise UserError("the name of the checkpoint is empty; give a path or a URL")
    if not is_url(source):
        return Path(source)
    address, _, fragment = str(source).partition("#")
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UserError(f"{address}: not an address ({error}); check it") from None
    # The host and folders are part of the name: PyTorchVideo's two zoos have the same file names.
    names = [part for part in unquote(parts.path).split("/") if part not in ("", ".", "..")]
    target = Path(torch.hub.get_dir(), "checkpoints", parts.netloc.replace(":", "_"), *names)
    if parts.query:
        target = target.with_name(f"{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}_{target.name}")
    named = _HASH.search(target.name)
    wanted = fragment.removeprefix("sha256=").lower() if fragment.startswith("sha256=") else ""
    wanted = wanted or (named.group(1) if named else "")
    if not target.is_file():
        download(address, target, wanted)
    elif fragment and not hashlib.sha256(target.read_bytes()).hexdigest().startswith(wanted):
        raise UserError(f"{target}: its SHA-256 is not {wanted}; remove the file to download it again")
    return target


def read_checkpoint(path: str | Path) -> Any:
    """What is in a file of ``torch.save``, of Caffe2 (a pickle of arrays), of safetensors or of MXNet, on the CPU.

    Nothing is run: ``torch.load`` gets ``weights_only``, and from a pickle arrays and plain Python values alone are
    built. A safetensors file becomes ``{"model": state dict}``, with the configuration and the class names where it
    has those; one of MXNet, or a tar archive with one in it, the same without.

    Raises:
        UserError: no such file, or not a readable checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with path.open("rb") as file:
            start = file.read(16)
            if start[:8] == MAGIC:
                file.seek(0)
                return {"model": read_params(file)}
        if start[8:9] == b"{":
            return _read_safetensors(path)
        # Files of torch.save are zip archives, old ones pickles that begin with a certain whole number (LONG1).
        if start[:1] == b"\x80" and start[2:3] != b"\x8a":
            with path.open("rb") as file:
                return _ArraysOnly(file, encoding="latin1").load()
        if tarfile.is_tarfile(path) and (state := _read_tar(path)):
            return {"model": state}
        return _read_torch(path)
    except UserError:
        raise
    except Exception as error:  # broken files raise errors of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None


class _Inert:
    """Stands in for what a training framework leaves beside the weights; it takes everything and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):  # torch.load does not look at the checksums
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"its record {damaged} is damaged")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        # mmaction2 saves its logged losses too: HistoryBuffer objects, with numpy arrays and bound methods in them.
        if not all(name.startswith(("mmengine.", "numpy.")) or name == "builtins.getattr" for name in names):
            raise UserError(
                f"{path}: not a readable checkpoint (it has {', '.join(names[:3])} in it, and nothing but tensors is "
                "read); save its state dict alone"
            ) from None
        # A class of its own for each name: torch tells them apart by the class.
        with torch.serialization.safe_globals([(type("Inert", (_Inert,), {}), name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)


class _ArraysOnly(pickle.Unpickler):
    """A pickle of numpy arrays, as Caffe2's zoos have them; everything else is refused."""

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


def _read_tar(path: Path) -> dict[str, Tensor]:
    """The one ``.params`` in an archive; nothing where there is none, as in the oldest files of torch.save."""
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile() and member.name.endswith(".params")]
        if len(members) > 1:
            raise ValueError(f"{len(members)} files of MXNet are in it; unpack it and name one")
        file = archive.extractfile(members[0]) if members else None
        return {} if file is None else read_params(file)  # type: ignore[arg-type]


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import safe_open
    except ImportError:
        raise UserError(
            f"{path}: safetensors is needed; install it with: pip install 'octvideo[safetensors]'"
        ) from None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        payload: dict[str, Any] = {"model": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
    if "config" in metadata:
        payload["config"] = metadata["config"]
    if "classes" in metadata:
        payload["classes"] = json.loads(metadata["classes"])
    return payload


def state_of(payload: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, with the names that it has there.

    It may be under ``model`` (octvideo), ``model_state`` (PyTorchVideo, PySlowFast), ``state_dict`` (mmaction2,
    Lightning), ``blobs`` (Caffe2), or bare. A prefix ``model.`` or ``module.`` that all keys have is taken off. Of
    Caffe2's arrays those of the optimiser are left out.

    Raises:
        UserError: there is none.
    """
    for key in ("model", "model_state", "state_dict", "blobs"):
        if isinstance(payload, Mapping) and isinstance(payload.get(key), Mapping):
            payload = payload[key]
            break
    if isinstance(payload, Mapping) and any(isinstance(value, np.ndarray) for value in payload.values()):
        payload = {
            key: torch.from_numpy(np.array(value))
            for key, value in payload.items()
            if isinstance(value, np.ndarray) and not key.endswith("_momentum") and key not in ("lr", "model_iter")
        }
    if not isinstance(payload, Mapping) or not payload or not all(isinstance(v, Tensor) for v in payload.values()):
        raise UserError(f"{path}: no state dict found in this checkpoint (looked for model, model_state, state_dict)")
    state = dict(payload)
    for prefix in ("module.", "model."):
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state
