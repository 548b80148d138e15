"""Compare twins, networks that differ in octave keys only: accuracy over seeds, multiply-adds, speed and memory."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from fvcore.common.config import CfgNode

from octvideo.analysis.pictures.compare import Result, draw_comparison
from octvideo.analysis.report_run import Run
from octvideo.backends.runners import BACKENDS, create_runner
from octvideo.benchmarking.timing import hardware, interleaved, timed
from octvideo.benchmarking.training import engine_steps
from octvideo.config import flatten, with_keys
from octvideo.device import resolve_device
from octvideo.engine.metrics import wilson_interval
from octvideo.engine.resume import KEYS
from octvideo.errors import UserError
from octvideo.files import write_bytes, write_text
from octvideo.models import build_model
from octvideo.octave.complexity import count

__all__ = ["Twin", "as_markdown", "compare_twins", "unfinished", "write_comparison"]

_ROUNDS = 15
_STEP_ROUNDS = 5  # of 4 steps each
_MOST_ON_CPU = 5e10  # multiply-adds of what is timed on a CPU: up to here the rounds take minutes
_PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}


@dataclass
class Twin:
    """One network of a comparison, over its seeds.

    Attributes:
        name: alpha and multiple as they are typed, like ``0.125x16``.
        alpha: share of low-frequency channels.
        multiple: of the number of low-frequency channels.
        gflops: billions of multiply-adds of one clip at the training size.
        params_m: millions of parameters.
        num_videos: test videos with a label that could be read.
        num_failed: test videos that could not be read, of the seed with the most.
        top1: mean over the seeds, in percent.
        interval: of ``top1``, 95 %, for a sample of ``num_videos``.
        spread: standard deviation over the seeds; None with one.
        seeds: top-1 by seed.
        difference: points of top-1 from the first twin on the same videos; None for the first.
        difference_error: half of the 95 % interval of ``difference``, for a sample of ``num_videos``.
        clip_ms: milliseconds of one clip, by runtime.
        step_ms: milliseconds of a training step; None where it was not timed.
        step_memory_mb: memory of a step in addition to what is held between steps; None where it is not known.
    """

    name: str
    alpha: float
    multiple: int
    gflops: float
    params_m: float
    num_videos: int
    num_failed: int
    top1: float
    interval: tuple[float, float]
    spread: float | None
    seeds: dict[int, float]
    difference: float | None = None
    difference_error: float | None = None
    clip_ms: dict[str, float] = field(default_factory=dict)
    step_ms: float | None = None
    step_memory_mb: float | None = None


def unfinished(cfg: CfgNode) -> str | None:
    """Return None for a run whose results are complete, else why not: the key with another value than in the test.

    Without results it is "". Predictions are written last: they are newer than the configuration of the test.
    """
    folder = Path(cfg.OUTPUT_DIR)
    tested, predictions = folder / "test_config.yaml", folder / "predictions.csv"
    if not (tested.is_file() and predictions.is_file()):
        return ""
    run = Run(folder)
    if predictions.stat().st_mtime_ns < tested.stat().st_mtime_ns or (cfg.TEST.SCALES and "scales" not in run.metrics):
        return ""
    found = dict(flatten(run.cfg))
    computed = {"MODEL.NUM_CLASSES": not cfg.MODEL.NUM_CLASSES, "TRAIN.STEPS": bool(cfg.TRAIN.EPOCHS)}
    wanted = ((key, value) for key, value in flatten(cfg) if key not in KEYS["silent"] and not computed.get(key))
    return next((key for key, value in wanted if found[key] != value), None)


def compare_twins(cfgs: Mapping[str, Sequence[CfgNode]]) -> dict[str, Any]:
    """Return the comparison of finished runs, as ``compare.json`` has it.

    Args:
        cfgs: of the runs, one per seed, by the name of the twin.

    Raises:
        UserError: a run has no results, has them with other settings, or its test videos have no labels.
    """
    for cfg in (cfg for seeds in cfgs.values() for cfg in seeds):
        if (key := unfinished(cfg)) is not None:
            what = f"its results are of another {key}" if key else "it has no results"
            raise UserError(f"{cfg.OUTPUT_DIR}: {what}; run the same command again, or choose another OUTPUT_DIR")
    runs = {name: [Run(Path(cfg.OUTPUT_DIR)) for cfg in seeds] for name, seeds in cfgs.items()}
    right = {name: _right(seeds) for name, seeds in runs.items()}
    twins = {name: _twin(name, seeds, right[name]) for name, seeds in runs.items()}
    first, *others = twins
    for name in others:
        twins[name].difference, twins[name].difference_error = _difference(right[name], right[first])
    networks = {name: seeds[0].cfg for name, seeds in runs.items()}
    cfg = networks[first]
    if cfg.NUM_THREADS:
        torch.set_num_threads(cfg.NUM_THREADS)
    _time(twins, networks)
    return {
        "model": cfg.MODEL.ARCH,
        "test": cfg.DATA.TEST or cfg.DATA.VAL,
        "views": cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS,
        "steps": cfg.TRAIN.STEPS,
        "batch_size": cfg.TRAIN.BATCH_SIZE,
        "clip": _clip_shape(cfg),
        "device": resolve_device(cfg.DEVICE).type,
        "hardware": hardware(),
        "rounds": {"clip": _ROUNDS, "step": _STEP_ROUNDS},
        "twins": [asdict(twin) for twin in twins.values()],
    }


def _clip_shape(cfg: CfgNode) -> tuple[int, int, int]:
    return cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.DATA.TRAIN_CROP


def _right(runs: Sequence[Run]) -> dict[str, float]:
    """Return for each test video that all runs have read the share of the runs whose answer is right."""
    answers = [{video.path: video.predicted == video.label for video in run.tested if video.label} for run in runs]
    shared = [path for path in answers[0] if all(path in known for known in answers)]
    if len(shared) < 2:
        raise UserError(f"{runs[0].folder}: fewer than two test videos have labels; set DATA.VAL to labelled videos")
    return {path: mean(known[path] for known in answers) for path in shared}


def _twin(name: str, runs: Sequence[Run], right: Mapping[str, float]) -> Twin:
    cfg, top1 = runs[0].cfg, [run.metrics["top1"] for run in runs]
    cost = count(build_model(cfg), (1, 3, *_clip_shape(cfg))).as_dict()
    return Twin(
        name=name,
        alpha=cfg.OCTAVE.ALPHA,
        multiple=cfg.OCTAVE.MULTIPLE,
        gflops=cost["gflops"],
        params_m=cost["params_m"],
        num_videos=len(right),
        num_failed=max(run.metrics["num_failed"] for run in runs),
        top1=mean(top1),
        interval=wilson_interval(round(mean(top1) * len(right) / 100), len(right)),
        spread=stdev(top1) if len(top1) > 1 else None,
        seeds={run.cfg.SEED: value for run, value in zip(runs, top1)},
    )


def _difference(right: Mapping[str, float], first: Mapping[str, float]) -> tuple[float, float]:
    """Return by how many points one twin is better on the videos of both, and half of the 95 % interval.

    The twins answer the same videos, so this is known better than the accuracy of each.
    """
    points = [100 * (right[path] - first[path]) for path in right if path in first]
    return mean(points), 1.959964 * stdev(points) / math.sqrt(len(points))


def _time(twins: Mapping[str, Twin], cfgs: Mapping[str, CfgNode]) -> None:
    """Time clips and training steps of all twins in turn, unless they are too large for this CPU."""
    first = next(iter(cfgs.values()))
    device = resolve_device(first.DEVICE)
    clip_cost = 1e9 * max(twin.gflops for twin in twins.values())
    most = _MOST_ON_CPU if device.type == "cpu" else math.inf
    if clip_cost <= most:
        passes = {}
        clip = torch.randn(1, 3, *_clip_shape(first), device=device).contiguous(memory_format=torch.channels_last_3d)
        for name, cfg in cfgs.items():
            for runtime in _runtimes(device):
                model = build_model(with_keys(cfg, {"MODEL.CONV_AS_2D": (runtime, device.type) == ("torch", "cpu")}))
                try:
                    run = create_runner(runtime, model.eval(), clip.shape[2:], device)
                except UserError as error:
                    print(f"alpha {name}: not timed in {runtime}: {error}", file=sys.stderr)
                    continue
                run(clip), run(clip)  # warm up
                passes[f"{name} {runtime}"] = partial(timed, partial(run, clip))
        for key, seconds in interleaved(passes, _ROUNDS).items():
            name, runtime = key.split()
            twins[name].clip_ms[runtime] = 1000 * seconds
    if clip_cost * first.TRAIN.BATCH_SIZE <= most:
        for found in engine_steps(cfgs, _STEP_ROUNDS):
            twin = twins[found["name"]]
            twin.step_ms, twin.step_memory_mb = 1000 * found["seconds"], found.get("peak_memory_mb")


def _runtimes(device: torch.device) -> list[str]:
    """Return the backends that run on a device and are installed."""
    installed = {name for name, needs in _PACKAGES.items() if all(map(importlib.util.find_spec, needs))}
    return [name for name in BACKENDS if name == "torch" or (device.type == "cpu" and name in installed)]


def write_comparison(found: Mapping[str, Any], folder: Path) -> None:
    """Write ``compare.json``, ``compare.csv``, ``compare.md`` and the figure ``compare.png``.

    Raises:
        UserError: a file cannot be written.
    """
    write_text(folder / "compare.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "compare.csv", _as_csv(found))
    write_text(folder / "compare.md", as_markdown(found))
    results = [
        Result(found["model"], twin["alpha"], twin["gflops"], top1)
        for twin in found["twins"]
        for top1 in twin["seeds"].values()
    ]
    write_bytes(folder / "compare.png", draw_comparison(results))


def _as_csv(found: Mapping[str, Any]) -> str:
    """Return a row per twin; ``octvideo visualize compare`` reads it too."""
    rows = []
    for twin in found["twins"]:
        row = {"model": found["model"], **twin}
        row["low"], row["high"] = row.pop("interval")
        row["seeds"] = " ".join(f"{seed}:{top1:.4f}" for seed, top1 in row["seeds"].items())
        row |= {f"{runtime}_ms": ms for runtime, ms in row.pop("clip_ms").items()}
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(found: Mapping[str, Any]) -> str:
    """Return the table as a page."""
    twins = found["twins"]
    runtimes = list(dict.fromkeys(runtime for twin in twins for runtime in twin["clip_ms"]))
    seeds = ", ".join(map(str, twins[0]["seeds"]))
    vanilla = twins[0]
    columns = ["alpha", "top-1, %", "95 % interval", f"each seed ({seeds})", "sd over seeds", "difference, points"]
    columns += ["multiply-adds, G", "share", *(f"{runtime}, ms a clip" for runtime in runtimes)]
    columns += ["training step, ms", "memory of a step, MB"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for twin in twins:
        low, high = twin["interval"]
        cells = [twin["name"], f"{twin['top1']:.2f}", f"{low:.1f} to {high:.1f}"]
        cells += [", ".join(f"{top1:.1f}" for top1 in twin["seeds"].values()), _shown(twin["spread"], ".2f")]
        difference = twin["difference"]
        cells.append("" if difference is None else f"{difference:+.2f} ± {twin['difference_error']:.2f}")
        cells += [f"{twin['gflops']:.3g}", f"{twin['gflops'] / vanilla['gflops']:.2f}"]
        cells += [_shown(twin["clip_ms"].get(runtime), ".2f") for runtime in runtimes]
        cells += [_shown(twin["step_ms"], ".0f"), _shown(twin["step_memory_mb"], ".0f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"# {found['model']}: alphas compared", "", *lines, "", *_notes(found)]) + "\n"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _notes(found: Mapping[str, Any]) -> list[str]:
    """Return what the figures are of, and how they were measured."""
    first, machine, rounds = found["twins"][0], found["hardware"], found["rounds"]
    clip = "x".join(map(str, found["clip"]))
    where = f"{machine['cpu']}, {machine['threads']} thread(s)" if found["device"] == "cpu" else machine["gpu"]
    notes = [
        f"- Test: N = {first['num_videos']} videos of {found['test']}, {found['views']} view(s) of each.",
        f"- Training: {found['steps']} steps of {found['batch_size']} clips, {len(first['seeds'])} seed(s). Twins of a "
        "seed see the same clips in the same order.",
        "- The 95 % interval is that of a sample of N videos (Wilson). The standard deviation (sd) is over the seeds.",
        f"- The difference is that from alpha {first['name']} on these videos. Its 95 % interval is that of a sample.",
        f"- Multiply-adds: of a clip of {clip}, as `octvideo complexity` counts them.",
        f"- Times: medians of {rounds['clip']} rounds (a clip) and {rounds['step']} rounds of 4 steps, the twins in "
        f"turn, on {where}, PyTorch {machine['torch']}. The memory is in addition to what is held between steps.",
    ]
    if failed := max(twin["num_failed"] for twin in found["twins"]):
        notes.append(f"- Up to {failed} more test videos could not be read.")
    if first["step_ms"] is None:
        notes.append("- What has no time is too large for this CPU: run the same command on a GPU to time it.")
    return notes
