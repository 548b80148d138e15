"""Load the network of a checkpoint, with its configuration and classes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import load_cfg, with_keys
from octvideo.data.classes import classes_of, extended, outputs_of
from octvideo.data.index import read_classes
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.build import num_classes
from octvideo.models.checkpoints import LoadReport, fit, local_file, read_checkpoint, state_of
from octvideo.models.zoo import model_cfg, warm_start, weights_file
from octvideo.octave import Plan

__all__ = ["Network", "cfg_from_text", "default_checkpoint", "load_network", "octave_plan", "other_plan"]

_DEFAULT_MODEL = "oct_i3d_small"


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode, on the CPU, with its configuration and classes.

    Attributes:
        name: of its file, without the suffix; "" without weights.
        threshold: confidence from which an answer is sure; None: not measured (``octvideo/inference/confidence.py``).
        seen: videos it was trained on (``octvideo.data.seen``); None if not recorded.
    """

    model: nn.Module
    cfg: CfgNode
    classes: tuple[str, ...]
    report: LoadReport
    name: str = ""
    threshold: float | None = None
    seen: Any = None

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """(T, H, W) of test clips."""
        return self.cfg.DATA.NUM_FRAMES, self.cfg.DATA.TEST_CROP, self.cfg.DATA.TEST_CROP


def default_checkpoint() -> Path:
    """Return the path of the small network shipped with octvideo.

    Raises:
        UserError: the file is missing.
    """
    return weights_file(_DEFAULT_MODEL)


def load_network(
    checkpoint: str | Path | None = None,
    cfg: str | Path | CfgNode | None = None,
    *,
    model: str | None = None,
    as_2d: bool | None = None,
) -> Network:
    """Build the network of a checkpoint and load its weights.

    Args:
        checkpoint: path or URL of an octvideo checkpoint, which contains its configuration and classes, or of bare
            weights, also of other projects (``docs/checkpoints.md``); None: ``default_checkpoint()``.
        cfg: a configuration or its file; None: the checkpoint's own.
        model: a network by name, in place of ``cfg``; without a checkpoint its published weights.
        as_2d: overrides ``MODEL.CONV_AS_2D``: run 3D convolutions as 2D ones, which is faster in PyTorch on a CPU.
            Exports do not depend on it.

    Raises:
        UserError: a file is missing or unreadable, there is no configuration, or the weights do not match the network.
    """
    if model is not None and cfg is not None:
        raise UserError(f"--model {model} has its own configuration; pass either --model or --cfg")
    path = local_file(checkpoint) if checkpoint is not None else weights_file(model or _DEFAULT_MODEL)
    content = read_checkpoint(path)
    weights = state_of(content, path)
    if isinstance(cfg, CfgNode):
        settings = cfg.clone()
    elif cfg is not None:
        settings = load_cfg(cfg)
    elif model is not None and (checkpoint is not None or "config" not in content):
        settings = model_cfg(model)
    elif isinstance(content.get("config"), str):
        settings = cfg_from_text(content["config"], path)
    else:
        raise UserError(f"{path}: these weights have no configuration; pass it with --cfg FILE")
    names, count = _classes(content, settings, path)
    as_2d = settings.MODEL.CONV_AS_2D if as_2d is None else as_2d
    settings = with_keys(settings, {"MODEL.NUM_CLASSES": count, "MODEL.CONV_AS_2D": as_2d})
    network = build_model(settings)
    report = fit(network, weights, path, strict=True, hint="--cfg")
    other_cfg = "config" in content and (cfg is not None or model is not None)
    if ("plan" in content or other_cfg) and (text := other_plan(network, content, path)):
        print(f"warning: {path}: {text}", file=sys.stderr)
    name = path.stem
    if model is not None and checkpoint is None:
        name = model
        if text := warm_start(model, settings.OCTAVE.ALPHA):
            print(f"warning: {text}", file=sys.stderr)
    return Network(network.eval(), settings, names, report, name, _threshold(content, path), content.get("seen"))


def other_plan(network: nn.Module, content: Mapping[str, Any], path: Path) -> str:
    """Return what to say of weights that were trained with other octave layers than a network has; "" if of none.

    Args:
        network: has the weights.
        content: of the checkpoint. Without a plan its configuration says it; bare weights are vanilla ones.
        path: of the checkpoint.
    """
    before = Plan()
    if "plan" in content:
        before = Plan.from_dict(content["plan"])
    elif isinstance(content.get("config"), str):
        with torch.device("meta"):
            before = octave_plan(build_model(cfg_from_text(content["config"], path)))
    now = octave_plan(network)
    if before == now or not (before.has_pairs or now.has_pairs):
        return ""
    return (
        f"a warm start: the weights were trained with {before}, the network has {now}: the same numbers, not the same "
        "function (docs/checkpoints.md)"
    )


def octave_plan(network: nn.Module) -> Plan:
    """Return which layers of a network of this project are octave, and how."""
    plan = network.octave_plan
    assert isinstance(plan, Plan)
    return plan


def _threshold(content: Any, path: Path) -> float | None:
    measured = content.get("confidence") if isinstance(content, dict) else None
    if measured is None:
        return None
    try:
        return float(measured["threshold"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: its entry `confidence` has no threshold; remove or correct that entry") from None


def cfg_from_text(text: str, path: Path) -> CfgNode:
    """Return the configuration that a file carries.

    Raises:
        UserError: it has unknown keys or wrong values; the message names ``path``.
    """
    with tempfile.TemporaryDirectory(prefix="octvideo-") as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            return load_cfg(file)
        except UserError as error:
            raise UserError(str(error).replace(str(file), f"{path} (its configuration)")) from None


def _classes(content: Any, cfg: CfgNode, path: Path) -> tuple[tuple[str, ...], int]:
    """Return the names of all outputs of the network, and their number."""
    names, outputs = classes_of(content, path), outputs_of(content)
    if not names and cfg.DATA.CLASSES:
        names = read_classes(cfg.DATA.CLASSES)
    count = cfg.MODEL.NUM_CLASSES or outputs or len(names) or num_classes(cfg)
    if outputs and outputs != count:
        raise UserError(f"{path}: it has {outputs} classes, but MODEL.NUM_CLASSES is {count}; check --cfg")
    return tuple(extended(names, count, str(path))), count
