"""Networks that ``octvideo export`` wrote for OpenVINO, with all that is needed to predict with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.backends.openvino_runner import OpenVinoRunner, core, has_bf16
from octvideo.engine.networks import Network, cfg_from_text
from octvideo.errors import UserError, one_line

__all__ = ["ExportedNetwork", "describe_network", "is_exported", "load_exported_network"]

_ENTRY = "octvideo"


@dataclass(frozen=True)
class ExportedNetwork:
    """A network in a file, ready to run.

    Attributes:
        name: of its file, without the suffix.
        threshold: as of ``Network``.
        precision: what it computes in here.
        run: from clips to logits.
    """

    name: str
    cfg: CfgNode
    classes: tuple[str, ...]
    threshold: float | None
    precision: str
    run: OpenVinoRunner


def is_exported(checkpoint: str | Path | None) -> bool:
    """Tell whether a checkpoint is a file of OpenVINO."""
    return checkpoint is not None and Path(checkpoint).suffix == ".xml"


def describe_network(model: Any, network: Network, precision: str, measured: dict[str, Any]) -> None:
    """Store in an ``openvino.Model`` what ``load_exported_network`` reads; ``measured`` is kept beside it."""
    record = {
        "config": network.cfg.dump(),
        "classes": network.classes,
        "threshold": network.threshold,
        "precision": precision,
        "measured": measured,
    }
    model.set_rt_info(json.dumps(record), _ENTRY)


def load_exported_network(path: str | Path) -> ExportedNetwork:
    """Load a network that ``octvideo export --format openvino`` wrote.

    One of bfloat16 computes in float32 where the CPU has no bfloat16.

    Raises:
        UserError: OpenVINO is not installed, or the file is missing, broken or of another program.
    """
    try:
        core()
    except ImportError:
        raise UserError(f"{path}: openvino is needed for this: pip install openvino") from None
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check --checkpoint")
    try:
        model = core().read_model(path)
    except RuntimeError as error:
        raise UserError(f"{path}: OpenVINO cannot read it ({one_line(error)}); export it again") from None
    if not model.has_rt_info(_ENTRY):
        raise UserError(f"{path}: it has no configuration; export it again with: octvideo export --format openvino")
    record = json.loads(model.get_rt_info(_ENTRY).astype(str))
    precision = record["precision"]
    if precision == "bf16" and not has_bf16():
        precision = "f32"
    return ExportedNetwork(
        name=path.stem,
        cfg=cfg_from_text(record["config"], path),
        classes=tuple(record["classes"]),
        threshold=record["threshold"],
        precision=precision,
        run=OpenVinoRunner(model, "bf16" if precision == "bf16" else "f32"),
    )
