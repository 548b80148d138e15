"""Read files of weights, by path or URL, as data: no code in them is run."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor

from octvideo.download import download
from octvideo.errors import UserError, one_line
from octvideo.files import foreign_content
from octvideo.models.checkpoints.published.caffe2 import is_caffe2, read_caffe2
from octvideo.models.checkpoints.published.mxnet import MAGIC, read_params, read_tar

__all__ = ["cache_path", "is_url", "local_file", "read_checkpoint", "state_of"]

# In the torch hub's `name-0123abcd.pth`, the first digits of the SHA-256. Eight decimal digits may be a date.
_HASH = re.compile(r"-((?!(?:19|20)\d{6}\.)[0-9a-f]{8,64})\.[A-Za-z]+$")
# octvideo and many others; PyTorchVideo and PySlowFast; mmaction2 and Lightning; PyTorch's tutorial; averaged weights.
_STATES = ("model", "model_state", "state_dict", "model_state_dict", "model_ema", "ema", "state_dict_ema")
_ROOTS = ("backbone", "blocks", "features", "layers", "stages")  # first names that a layout's tensors may all have

# What parsers raise at bytes that are not theirs.
_PARSING = (LookupError, EOFError, struct.error, UnicodeDecodeError, AttributeError, TypeError)


def is_url(source: str | Path) -> bool:
    """Return whether a checkpoint is downloaded."""
    return str(source).lower().startswith(("http://", "https://"))


def local_file(source: str | Path) -> Path:
    """Return the path of a checkpoint. A URL is downloaded once, into ``torch.hub.get_dir()``/checkpoints.

    The SHA-256 is checked if the name ends in ``-HASH``, as the torch hub's do, or the URL in ``#sha256=HASH``.

    Raises:
        UserError: the name is empty, or the download fails (see ``download``); then nothing is kept.
    """
    if source == "":
        raise UserError("the name of the checkpoint is empty; give a path or a URL")
    if not is_url(source):
        return Path(source)
    address, _, fragment = str(source).partition("#")
    target = cache_path(address)
    named = _HASH.search(target.name)
    wanted = fragment.removeprefix("sha256=").lower() if fragment.startswith("sha256=") else ""
    wanted = wanted or (named.group(1) if named else "")
    if not target.is_file():
        download(address, target, wanted)
    elif fragment and not hashlib.sha256(target.read_bytes()).hexdigest().startswith(wanted):
        raise UserError(f"{target}: its SHA-256 is not {wanted}; remove the file to download it again")
    return target


def cache_path(address: str) -> Path:
    """Return where the file of an address is kept, or would be, in ``torch.hub.get_dir()``/checkpoints.

    Raises:
        UserError: it is not an address.
    """
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UserError(f"{address}: not an address ({error}); check it") from None
    # The host and folders are part of the name: PyTorchVideo's two zoos have the same file names.
    names = [part for part in unquote(parts.path).split("/") if part not in ("", ".", "..")]
    target = Path(torch.hub.get_dir(), "checkpoints", parts.netloc.replace(":", "_"), *names)
    if parts.query:
        target = target.with_name(f"{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}_{target.name}")
    return target


def read_checkpoint(path: str | Path) -> Any:
    """Return what is in a file of ``torch.save``, on the CPU; of another format ``{"model": state dict}``.

    Other formats are safetensors (with ``config`` and ``classes`` if it has them), Caffe2's pickles of arrays, and
    MXNet's ``.params``, also in a tar archive. No code is run: ``torch.load`` gets ``weights_only``, and a pickle may
    hold arrays and plain Python values only.

    Raises:
        UserError: no such file, or not a readable checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with path.open("rb") as file:
            start = file.read(16)
            file.seek(0)
            if start[:8] == MAGIC:
                return {"model": read_params(file)}
            if is_caffe2(start):
                return {"model": read_caffe2(file)}
        if start[8:9] == b"{":
            return _read_safetensors(path)
        if tarfile.is_tarfile(path) and (state := read_tar(path)):
            return {"model": state}
        return _read_torch(path)
    except UserError:
        raise
    except Exception as error:  # broken files raise errors of many kinds
        reason = foreign_content(path) or _reason(error)
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None


def _reason(error: Exception) -> str:
    """Return what is wrong with a file; what parsers say of cut and damaged ones helps nobody."""
    cut = isinstance(error, OSError) and error.errno == errno.EINVAL
    if cut or isinstance(error, _PARSING) or "PytorchStreamReader" in str(error):
        return "cut short, damaged or of another format"
    return one_line(error)[:200]


class _Inert:
    """Stand in for objects that a framework saves with the weights: takes any arguments, does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):  # torch.load does not check the checksums
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"record {damaged} is damaged")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        # mmaction2 saves its logged losses too: HistoryBuffer objects, with numpy arrays and bound methods in them.
        if not all(name.startswith(("mmengine.", "numpy.")) or name == "builtins.getattr" for name in names):
            raise UserError(
                f"{path}: not a readable checkpoint (only tensors are read, and it has {', '.join(names[:3])}); save "
                "its state dict alone"
            ) from None
        # One class for each name: torch tells the names apart by the class.
        with torch.serialization.safe_globals([(type("Inert", (_Inert,), {}), name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)


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
    for name in ("classes", "plan", "confidence", "seen"):
        if name in metadata:
            payload[name] = json.loads(metadata[name])
    return payload


def state_of(payload: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, with the names of the file.

    It may be under a key of ``_STATES``, or bare. What all names begin with is removed if it is no layout's own:
    ``module.`` (data parallel), ``model.`` or ``net.`` (attributes, as in Lightning); so is ``_orig_mod.`` (compiled).

    Raises:
        UserError: there is none.
    """
    for key in _STATES:
        if isinstance(payload, Mapping) and isinstance(payload.get(key), Mapping):
            payload = payload[key]
            break
    if not isinstance(payload, Mapping) or not payload or not all(isinstance(v, Tensor) for v in payload.values()):
        raise UserError(f"{path}: no state dict found in this checkpoint (looked for {', '.join(_STATES)})")
    state = {key.replace("_orig_mod.", ""): value for key, value in payload.items()}
    while True:
        shared = {key.partition(".")[0] if "." in key else "" for key in state}
        if len(shared) > 1 or shared & {"", *_ROOTS}:
            return state
        state = {key.partition(".")[2]: value for key, value in state.items()}
