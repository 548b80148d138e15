"""A run as its folder describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from octvideo.analysis.report_results import Curves, read_curves, read_tested
from octvideo.config import load_cfg
from octvideo.errors import UserError

__all__ = ["Run"]

_GROUPS = 12  # names to show


class Run:
    """What a run has left in its folder.

    Attributes:
        folder: of the run.
        cfg: the configuration of the last test; that of the training where nothing was tested.
        data: ``data.json`` of ``octvideo train``; empty without one.
        metrics: ``metrics.json``; empty where nothing was tested.
        tested: the scored videos.
        curves: of the training that made the weights; empty where the run did not make them.
        source: path or URL of the tested videos.
        weights: path or URL of the tested weights.
        is_own: this run has made them.
        is_chosen: the tested videos chose these weights.

    Raises:
        UserError: there is no run in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        configs = [folder / name for name in ("test_config.yaml", "config.yaml")]
        existing = [path for path in configs if path.is_file()]
        if not existing:
            raise UserError(f"{folder}: no run in this folder (config.yaml is missing); give the OUTPUT_DIR of one")
        self.cfg = load_cfg(existing[0])
        self.metrics, self.data = _read_json(folder / "metrics.json"), _read_json(folder / "data.json")
        predictions = folder / "predictions.csv"
        self.tested = read_tested(predictions) if predictions.is_file() else []
        self.source = self.data.get("source") or self.cfg.DATA.TEST or self.cfg.DATA.VAL
        given, is_best = self.cfg.TEST.CHECKPOINT, self.cfg.TEST.WEIGHTS == "best"
        self.weights = given or str(folder / "checkpoints" / ("best.pt" if is_best else "last.pt"))
        self.is_own = not given or Path(given).resolve().is_relative_to(folder.resolve())
        self.curves = read_curves(folder / "log.jsonl") if self.is_own else Curves()
        is_validation = self.cfg.DATA.TEST in ("", self.cfg.DATA.VAL)
        self.is_chosen = Path(self.weights).name == "best.pt" and is_validation

    def facts(self) -> list[tuple[str, str]]:
        """Return what the run did: (subject, text)."""
        cfg, metrics = self.cfg, self.metrics
        alpha = f", α = {cfg.OCTAVE.ALPHA:g}" if cfg.OCTAVE.ALPHA else ""
        frames = f"{cfg.DATA.NUM_FRAMES} frames of {cfg.DATA.TEST_CROP} x {cfg.DATA.TEST_CROP} pixels"
        if cfg.DATA.NUM_FRAMES == 1:
            frames = f"images of {cfg.DATA.TEST_CROP} x {cfg.DATA.TEST_CROP} pixels"
        elif cfg.DATA.SAMPLING_RATE > 1:
            frames += f", {cfg.DATA.SAMPLING_RATE} apart in the video"
        facts = [("Network", f"{cfg.MODEL.ARCH}{alpha}; {cfg.MODEL.NUM_CLASSES} classes; {frames}")]
        facts += self._data()
        if not self.is_own:
            facts.append(("Weights", f"{self.weights}, which this run did not train"))
        else:
            start = self.data.get("start") or cfg.TRAIN.CHECKPOINT or "random weights (from scratch)"
            facts.append(("Started from", start))
            last = max((step for step, _ in self.curves.rate), default=cfg.TRAIN.STEPS)
            steps = f"{last:,} of {cfg.TRAIN.STEPS:,}" if last < cfg.TRAIN.STEPS else f"{cfg.TRAIN.STEPS:,}"
            training = f"{steps} steps, {cfg.TRAIN.BATCH_SIZE} clips each"
            if failed := metrics.get("num_failed_train"):
                training += f"; {failed} video(s) could not be read (see log.jsonl)"
            facts.append(("Training", training))
            best = Path(self.weights).name == "best.pt"
            facts.append(("Weights", "those of the best evaluation" if best else "those of the last step"))
        if metrics:
            views = f"{cfg.TEST.NUM_CLIPS} x {cfg.TEST.NUM_CROPS} views of each of {metrics['num_videos']:,} videos"
            failed = f"; {metrics['num_failed']} could not be read" if metrics["num_failed"] else ""
            facts.append(("Test", views + failed))
        return facts

    def _data(self) -> list[tuple[str, str]]:
        if not self.data:
            pairs = [("Trained on", self.cfg.DATA.TRAIN)] if self.is_own else []
            return [*pairs, ("Tested on", self.source)]
        data = self.data
        facts = [
            (
                "Data",
                f"{data['source']}: {data['videos']:,} videos, {data['train']:,} to train on, {data['val']:,} to test",
            )
        ]
        if groups := data.get("groups"):
            held = groups["val"]
            names = ", ".join(map(str, held[:_GROUPS])) + (", ..." if len(held) > _GROUPS else "")
            facts.append(("Held out", f"{len(held)} of {len(held) + len(groups['train'])} groups: {names}"))
        return facts

    def broken(self) -> list[tuple[str, str]]:
        """Return the videos that could not be read, each with the reason."""
        found = {entry["video"]: entry["reason"] for entry in self.data.get("broken", [])}
        found |= {entry["path"]: entry["reason"] for entry in self.metrics.get("failed", [])}
        return list(found.items())


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
