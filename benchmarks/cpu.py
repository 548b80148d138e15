#!/usr/bin/env python
"""Measure on a CPU what octave gains beside its vanilla twin, and what a user would run in its place.

One thread. Networks of a group take turns (docs/performance.md). Figures are medians of processor time, of `predict`
seconds. "allowed" is the ratio of multiply-adds. In OpenVINO float32 a network is compiled twice and the faster copy
counts: by where its memory lies it differs from itself by up to 8 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
from torch import nn  # noqa: E402

from octvideo.backends.openvino_runner import OpenVinoRunner, core, has_bf16  # noqa: E402
from octvideo.backends.quantise import quantise  # noqa: E402
from octvideo.backends.runners import create_runner, openvino_model  # noqa: E402
from octvideo.benchmarking.timing import hardware, interleaved, timed  # noqa: E402
from octvideo.config import load_cfg, with_keys  # noqa: E402
from octvideo.errors import UserError  # noqa: E402
from octvideo.models import build_model  # noqa: E402
from octvideo.octave.complexity import count  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
# Configuration, and alphas; "0.125x16": low channels in multiples of 16. The first is the vanilla network.
GROUPS = {
    "I3D-50": ("oct_i3d_k400.yaml", ("0", "0.125x16", "0.25", "0.5")),
    "ResNet-50": ("oct_resnet50_preact_in1k.yaml", ("0", "0.25", "0.5", "0.75")),
    "SlowFast 8x8": ("oct_slowfast_8x8_k400.yaml", ("0", "0.5")),
    "I3D-50 + non-local": ("oct_i3d_nln_k400.yaml", ("0", "0.5x16")),
    "small I3D, width 16": ("oct_small.yaml", ("0", "0.25", "0.5x16")),
    "small I3D, width 32": ("oct_small.yaml MODEL.WIDTH 32", ("0", "0.25x16", "0.5x16")),
    "small I3D, width 64": ("oct_small.yaml MODEL.WIDTH 64", ("0", "0.25x16", "0.5x16")),
}
_FULL = "I3D-50"  # the group that is also measured in lower precisions and beside other libraries
_AGAIN = ", again"  # the second copy
Work = Callable[[], Any]


def _settings(group: str, alpha: str) -> Any:
    name, *keys = GROUPS[group][0].split()
    value, _, multiple = alpha.partition("x")
    keys += ["OCTAVE.ALPHA", value, "OCTAVE.MULTIPLE", multiple or "1"]
    return load_cfg(name, [*keys, *(["OCTAVE.FAST_ALPHA", value] if "slowfast" in name else [])])


def _variants(group: str) -> tuple[dict[str, Work], dict[str, float]]:
    """Return what is timed, by name, and the multiply-adds of each in billions."""
    works: dict[str, Work] = {}
    gflops = {}
    for alpha in GROUPS[group][1]:
        cfg = _settings(group, alpha)
        shape = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.DATA.TRAIN_CROP)
        network = build_model(cfg).eval()
        clip = torch.randn(1, *shape, 3).permute(0, 4, 1, 2, 3)
        cost = count(network, clip.shape).as_dict()["gflops"]
        model = openvino_model(network, shape)
        found = {name: OpenVinoRunner(model.clone()) for name in ("openvino f32", f"openvino f32{_AGAIN}")}
        if group == _FULL or group.startswith("small"):
            as_2d = build_model(with_keys(cfg, {"MODEL.CONV_AS_2D": True})).eval()
            found["torch f32"] = create_runner("torch", as_2d, shape, torch.device("cpu"))
        if group == _FULL:
            if has_bf16():
                found["openvino bf16"] = OpenVinoRunner(model.clone(), "bf16")
            try:
                found["openvino int8"] = OpenVinoRunner(quantise(model, [clip]))
            except UserError as error:
                print(error, file=sys.stderr)
        for runtime, run in found.items():
            works[f"{alpha}, {runtime}"] = partial(run, clip)
            gflops[f"{alpha}, {runtime}"] = cost
    if group == _FULL:
        for name, (network, shape) in _peers().items():
            works[name] = partial(_forward, network, torch.randn(1, 3, *shape))
            gflops[name] = count(network, (1, 3, *shape)).as_dict()["gflops"]
    return works, gflops


def _peers() -> dict[str, tuple[nn.Module, tuple[int, int, int]]]:
    """Return PyTorchVideo's own networks, as its users run them."""
    from pytorchvideo.models import hub

    return {
        "PyTorchVideo i3d_r50, eager": (hub.i3d_r50(pretrained=False).eval(), (8, 224, 224)),
        "PyTorchVideo x3d_s, eager": (hub.x3d_s(pretrained=False).eval(), (13, 160, 160)),
    }


@torch.inference_mode()
def _forward(network: nn.Module, clip: torch.Tensor) -> None:
    network(clip)


def _processor_seconds(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(group: str, rounds: int) -> dict[str, Any]:
    """Return milliseconds, multiply-adds and ratios of a group's networks."""
    works, gflops = _variants(group)
    for work in works.values():
        work(), work()
    seconds = interleaved({name: partial(_processor_seconds, work) for name, work in works.items()}, rounds)
    for name in [name for name in seconds if name.endswith(_AGAIN)]:
        again = seconds.pop(name)
        seconds[name.removesuffix(_AGAIN)] = min(again, seconds[name.removesuffix(_AGAIN)])
    rows = {}
    for name, value in seconds.items():
        rows[name] = {"ms": 1000 * value, "gflops": gflops[name]}
        alpha, _, runtime = name.partition(", ")
        vanilla = f"{GROUPS[group][1][0]}, {runtime}"
        if vanilla in seconds and alpha != GROUPS[group][1][0]:
            gained, allowed = seconds[vanilla] / value, gflops[vanilla] / gflops[name]
            rows[name] |= {"speedup": gained, "allowed": allowed, "share": gained / allowed}
        peer = seconds.get("PyTorchVideo i3d_r50, eager")
        if peer is not None:
            rows[name]["times_pytorchvideo"] = peer / value
    return rows


def saved_activations() -> dict[str, Any]:
    """Return the megabytes that a training step of I3D-50 keeps for the backward pass, beside the counted ones."""
    found: dict[str, Any] = {}
    for alpha in GROUPS[_FULL][1]:
        network = build_model(with_keys(_settings(_FULL, alpha), {"MODEL.CONV_AS_2D": True})).train()
        own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor, kept: dict[int, int] = kept, own: set[int] = own) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        clip = torch.randn(1, 8, 224, 224, 3).permute(0, 4, 1, 2, 3)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(clip).sum()
        counted = count(network, clip.shape).as_dict()["activations_m"]
        found[alpha] = {"saved_mb": sum(kept.values()) / 1e6, "activations_m": counted}
        del loss
    vanilla = found[GROUPS[_FULL][1][0]]
    for row in found.values():
        row["share_saved"] = row["saved_mb"] / vanilla["saved_mb"]
        row["share_counted"] = row["activations_m"] / vanilla["activations_m"]
    return found


def many_clips(rounds: int) -> dict[str, Any]:
    """Return milliseconds a clip of eight on all cores: as a batch, one after the other, one on each thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, len(os.sched_getaffinity(0))))
    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    for group, alpha in (("I3D-50", "0"), ("I3D-50", "0.5"), ("small I3D, width 16", "0.5x16")):
        cfg = _settings(group, alpha)
        shape = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.DATA.TRAIN_CROP)
        model = openvino_model(build_model(cfg).eval(), shape)
        clips = torch.randn(8, 3, *shape)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        batch = core().compile_model(model, "CPU", settings)
        run = OpenVinoRunner(model.clone())
        ways: dict[str, Work] = {
            "a batch": partial(batch, clips.numpy()),
            "one after the other": partial(_each, run, clips),
            "one on each thread": partial(run, clips),
        }
        for work in ways.values():
            work()
        seconds = interleaved({name: partial(timed, work) for name, work in ways.items()}, rounds)
        found[f"{group}, {alpha}"] = {name: 1000 * value / len(clips) for name, value in seconds.items()}
    torch.set_num_threads(before)
    return found


def _each(run: Callable[[torch.Tensor], Any], clips: torch.Tensor) -> None:
    for clip in clips:
        run(clip[None])


def predict(video: Path, rounds: int) -> dict[str, Any]:
    """Time whole commands, 30 views of I3D-50: PyTorchVideo with a decode a view; ``octvideo predict``, and int8."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder, "PYTHONPATH": str(ROOT)}
        commands = {"PyTorchVideo, eager": [sys.executable, __file__, "--peer", str(video)]}

        def run(command: list[str]) -> float:
            start = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            return time.perf_counter() - start

        for alpha in ("0", "0.5"):
            cfg = with_keys(_settings(_FULL, alpha), {"DATA.TEST_CROP": 224})  # as the peer
            file = Path(folder, f"{alpha}.pt")
            torch.save({"model": build_model(cfg).state_dict(), "config": cfg.dump()}, file)
            command = [sys.executable, str(ROOT / "demo/predict.py"), str(video), "--views", "30", "--checkpoint"]
            commands[f"octvideo predict, {alpha}"] = [*command, str(file)]
            run([*command, str(file), "--backend", "openvino"])  # the first start converts
            listed, int8 = Path(folder, "videos.csv"), Path(folder, f"{alpha}.xml")
            listed.write_text(f"{video.resolve()} 0\n", encoding="utf-8")
            export = [sys.executable, str(ROOT / "tools/export.py"), "--checkpoint", str(file), "--output", str(int8)]
            run([*export, "--format", "openvino", "--precision", "int8", "--calibrate", str(listed)])
            commands[f"octvideo predict, {alpha}, int8"] = [*command, str(int8)]

        seconds = interleaved({name: partial(run, command) for name, command in commands.items()}, rounds)
    peer = seconds["PyTorchVideo, eager"]
    return {name: {"seconds": value, "times_pytorchvideo": peer / value} for name, value in seconds.items()}


def _peer(video: Path) -> None:
    """Predict as PyTorchVideo's tutorial does, for 30 clips along the video."""
    from pytorchvideo.data.encoded_video import EncodedVideo
    from pytorchvideo.models import hub

    network = hub.i3d_r50(pretrained=False).eval()
    source = EncodedVideo.from_path(str(video), decoder="pyav", decode_audio=False)
    length = 64 / 30
    scores = []
    for number in range(30):
        start = number * max(0.0, float(source.duration) - length) / 29
        frames = source.get_clip(start, start + length)["video"]
        frames = frames[:, torch.linspace(0, frames.shape[1] - 1, 8).long()] / 255
        side = 256 / min(frames.shape[2:])
        size = [round(frames.shape[2] * side), round(frames.shape[3] * side)]
        frames = nn.functional.interpolate(frames.transpose(0, 1), size, mode="bilinear").transpose(0, 1)
        top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
        clip = (frames[None, :, :, top : top + 224, left : left + 224] - 0.45) / 0.225
        with torch.inference_mode():
            scores.append(network(clip).softmax(1))
    print(torch.cat(scores).mean(0).topk(5))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw what octave gains over what multiply-adds allow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.2), layout="constrained")
    axes = figure.subplots()
    markers = {"openvino f32": "o", "openvino bf16": "s", "openvino int8": "D", "torch f32": "x"}
    for color, (group, rows) in enumerate(result["networks"].items()):
        for runtime, marker in markers.items():
            points = [row for name, row in rows.items() if name.endswith(runtime) and "allowed" in row]
            if points:
                x, y = zip(*((row["allowed"], row["speedup"]) for row in points))
                axes.plot(x, y, marker, color=f"C{color}", label=f"{group}, {runtime}", markersize=7)
    limit = max(line.get_xdata().max() for line in axes.lines) + 0.1
    axes.plot([1, limit], [1, limit], color="0.6", linewidth=1, label="what multiply-adds allow")
    axes.axhline(1, color="0.8", linewidth=1)
    axes.set_xlabel("allowed: multiply-adds of vanilla / octave")
    axes.set_ylabel("measured: time of vanilla / octave")
    axes.legend(fontsize=7.5, loc="upper left")
    axes.grid(alpha=0.2)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--only", action="append", choices=(*GROUPS, "activations", "many", "predict"), help="may be repeated"
    )
    parser.add_argument(
        "--video", type=Path, help="a video of about 10 seconds: adds `predict`, in a fifth of the rounds"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--plot", type=Path, help="draw the results to this picture")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        _peer(args.peer)
        return
    torch.set_num_threads(1)
    import openvino

    wanted = args.only or [*GROUPS, "activations", "many", "predict"]
    machine = hardware() | {"openvino": openvino.__version__, "bf16": has_bf16()}
    result: dict[str, Any] = {"benchmark": "cpu", "hardware": machine, "rounds": args.rounds, "networks": {}}

    def keep() -> None:
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    for group in GROUPS:
        if group in wanted:
            result["networks"][group] = rows = measure(group, args.rounds)
            print(group, *(f"  {name:32} {row}" for name, row in rows.items()), sep="\n", flush=True)
            keep()
    if "activations" in wanted:
        result["activations"] = saved_activations()
        print("activations", result["activations"], flush=True)
    if "many" in wanted:
        result["many_clips"] = many_clips(args.rounds)
        print("many clips", result["many_clips"], flush=True)
    if "predict" in wanted and args.video:
        result["predict"] = predict(args.video, max(3, args.rounds // 5))
        print("predict", result["predict"], flush=True)
    keep()
    if args.plot:
        draw(result, args.plot)


if __name__ == "__main__":
    main()
