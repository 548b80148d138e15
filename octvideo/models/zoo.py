"""Networks by name: their configuration, their published weights, and the network itself.

A name is that of PyTorchVideo's hub where it has the network. ``oct_NAME`` is the octave twin.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octvideo.config import CfgNode, config_folder, load_cfg, with_keys
from octvideo.errors import UserError
from octvideo.files import write_text
from octvideo.models.published import ROOT, WEIGHTS, Published

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "NETWORKS",
    "config_file",
    "create_model",
    "list_models",
    "model_cfg",
    "published",
    "warm_start",
    "weights_file",
]

_ASSETS = Path(__file__).resolve().parents[1] / "assets"

# The configuration of each vanilla network, below configs/; the twin's file is oct_*.yaml.
NETWORKS = {
    "i3d_small": "small",
    "x3d_xs": "kinetics400/x3d_xs_k400",
    "x3d_s": "kinetics400/x3d_s_k400",
    "x3d_m": "kinetics400/x3d_m_k400",
    "x3d_l": "kinetics400/x3d_l_k400",
    "c2d_r50": "kinetics400/c2d_k400",
    "i3d_r50": "kinetics400/i3d_k400",
    "i3d_nln_r50": "kinetics400/i3d_nln_k400",
    "slow_r50": "kinetics400/slow_k400",
    "slow_4x16_r50": "kinetics400/slow_4x16_k400",
    "slowfast_4x16_r50": "kinetics400/slowfast_k400",
    "slowfast_8x8_r50": "kinetics400/slowfast_8x8_k400",
    "slowfast_8x8_r101": "kinetics400/slowfast_8x8_r101_k400",
    "slowfast_16x8_r101_50_50": "kinetics400/slowfast_16x8_r101_50_50_k400",
    "csn_r101": "kinetics400/csn_r101_k400",
    "r2plus1d_r50": "kinetics400/r2plus1d_r50_k400",
}


def list_models() -> list[str]:
    """Return the names of all networks."""
    return sorted([*NETWORKS, *(f"oct_{name}" for name in NETWORKS)])


def config_file(name: str) -> Path:
    """Return the configuration file of a network.

    Raises:
        UserError: an unknown name; the message has the nearest ones.
    """
    return config_folder() / f"{_config(name)}.yaml"


def model_cfg(name: str, alpha: float | None = None) -> CfgNode:
    """Return the configuration of a network, with another alpha if one is given.

    Raises:
        UserError: an unknown name, or alpha out of bounds.
    """
    if alpha is None:
        return load_cfg(config_file(name))
    vanilla = name.removeprefix("oct_")
    return load_cfg(config_file(f"oct_{vanilla}" if alpha else vanilla), ["OCTAVE.ALPHA", str(alpha)])


def published(name: str) -> dict[str, Published]:
    """Return the published weights of a network by their tag, the best known first. Every name has some.

    Raises:
        UserError: an unknown name.
    """
    config = _config(name)
    found: dict[str, Published] = {}
    for weights in WEIGHTS:
        if weights.tag and weights.fit(config):
            found.setdefault(weights.tag, weights)
    return found


def weights_file(name: str, tag: str = "") -> Path:
    """Return the file of published weights; it is downloaded once, see ``local_file``.

    The SHA-256 of the first download is kept beside the file, in ``FILE.sha256``, and checked from then on.
    OCTVIDEO_WEIGHTS_URL replaces ``https://dl.fbaipublicfiles.com``, for a mirror.

    Args:
        name: of the network.
        tag: which weights, a key of ``published(name)``; "" for the first.

    Raises:
        UserError: an unknown name or tag, the download fails, or the file is not the one of the first download.
    """
    weights = _weights(name, tag)
    if not weights.address:
        path = _ASSETS / weights.name
        if not path.is_file():
            raise UserError(f"{path}: the model shipped with octvideo is missing; pass another one with --checkpoint")
        return path
    # Torch takes seconds to import: a wrong name is reported before.
    from octvideo.models.checkpoints.files import cache_path, local_file

    mirror = os.environ.get("OCTVIDEO_WEIGHTS_URL", ROOT).rstrip("/")
    url = weights.url.replace(ROOT, f"{mirror}/")
    try:
        path = local_file(f"{url}#sha256={weights.sha256}" if weights.sha256 else url)
    except UserError as error:
        raise UserError(f"{error}; or put the file at {cache_path(url)}, or pass --checkpoint FILE") from None
    _check_first(path)
    return path


def _check_first(path: Path) -> None:
    """Check that a file is the one of its first download; the record has the format of sha256sum."""
    digest, record = hashlib.sha256(path.read_bytes()).hexdigest(), path.with_name(f"{path.name}.sha256")
    if not record.is_file():
        write_text(record, f"{digest}  {path.name}\n")
    elif record.read_text(encoding="utf-8").split(" ")[0] != digest:
        raise UserError(
            f"{path}: not the file of the first download (its SHA-256 is {digest}, not that in {record.name}); remove "
            f"it to download it again, and {record.name} too if the new file is the right one"
        )


def warm_start(name: str, alpha: float, tag: str = "") -> str:
    """Return a warning if published weights are of another alpha than the network; "" if they are not."""
    weights = _weights(name, tag)
    if alpha == weights.alpha:
        return ""
    return (
        f"{name}: {weights.name} was trained at alpha {weights.alpha:g}; at alpha {alpha:g} it is a warm start, not "
        "the same function: fine-tune it before use"
    )


def create_model(
    name: str, alpha: float | None = None, pretrained: str | bool | None = None, num_classes: int | None = None
) -> nn.Module:
    """Build a network: clips ``(N, 3, T, H, W)`` to logits ``(N, classes)``.

    ``model_cfg(name)`` has the size, the rate and the normalisation of its clips (``DATA``).

    Args:
        name: one of ``list_models()``.
        alpha: share of low-frequency channels; None: that of the name.
        pretrained: weights, a key of ``published(name)`` such as "k400"; True: the first; None: random ones.
        num_classes: None: as the weights have, or 400. With another number the head is new.

    Returns:
        The network in training mode. ``classes`` are the names of its outputs, () without weights or with a new head.

    Raises:
        UserError: an unknown name or tag, alpha out of bounds, or a failed download.

    Warns:
        UserWarning: the weights are of another alpha, so they are a warm start.

    Example::

        model = octvideo.create_model("oct_i3d_r50", alpha=0.125, pretrained="k400", num_classes=10)
    """
    cfg = model_cfg(name, alpha)
    tag = pretrained if isinstance(pretrained, str) else ""
    path = weights_file(name, tag) if pretrained else None
    # Torch takes seconds to import: wrong arguments are reported before.
    from octvideo.models.build import build_model
    from octvideo.models.build import num_classes as classes_of
    from octvideo.models.checkpoints import fit, read_checkpoint, state_of

    content = read_checkpoint(path) if path else {}
    classes = _classes(content, _weights(name, tag)) if path else ()
    count = num_classes or len(classes) or classes_of(cfg)
    model: Any = build_model(with_keys(cfg, {"MODEL.NUM_CLASSES": count}))
    model.classes = classes if count == len(classes) else ()
    if path:
        fit(model, state_of(content, path), path, strict=count == len(classes))
        if text := warm_start(name, cfg.OCTAVE.ALPHA, tag):
            warnings.warn(text, stacklevel=2)
    return model


def _config(name: str) -> str:
    """Return the configuration of a network, below configs/ and without suffix."""
    vanilla = name.removeprefix("oct_")
    if vanilla not in NETWORKS:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"the names are {', '.join(NETWORKS)}, and oct_ twins"
        raise UserError(f'unknown model "{name}"; {hint}')
    folder, slash, stem = NETWORKS[vanilla].rpartition("/")
    return f"{folder}{slash}{'oct_' * (name != vanilla)}{stem}"


def _weights(name: str, tag: str) -> Published:
    found = published(name)
    if tag and tag not in found:
        raise UserError(f'{name}: no published weights "{tag}"; there are {", ".join(found)}')
    return found[tag or next(iter(found))]


def _classes(content: Any, weights: Published) -> tuple[str, ...]:
    """Return the names of the classes of published weights."""
    if isinstance(content, Mapping) and content.get("classes"):
        return tuple(content["classes"])
    return tuple((_ASSETS / weights.classes).read_text(encoding="utf-8").splitlines())
