#!/usr/bin/env python
"""Measure octave networks on a GPU beside their vanilla twins and PyTorchVideo's own; under 8 minutes.

First the logits of the GPU are compared with those of the CPU. Then inference and a training step in fp32 (with TF32)
and bf16, channels-last, eager; alpha 0 and .5 also compiled with CUDA graphs, in bf16. Networks take turns; figures are
medians.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octvideo.backends.runners import relative_difference
from octvideo.benchmarking.timing import hardware, interleaved, timed
from octvideo.config import load_cfg
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.octave import fold_batch_norm

NETWORKS = {"I3D-50": "oct_i3d_k400.yaml", "SlowFast 8x8": "oct_slowfast_8x8_k400.yaml"}
ALPHAS = ("0", "0.125x16", "0.25", "0.5")
COMPILED = ("0", "0.5")
TOLERANCE = 1e-3  # of logits without TF32


def _network(name: str, alpha: str, keys: list[str]) -> tuple[nn.Module, tuple[int, int, int]]:
    value, _, multiple = alpha.partition("x")
    chosen = ["OCTAVE.ALPHA", value, "OCTAVE.MULTIPLE", multiple or "1", "MODEL.CONV_AS_2D", "False", *keys]
    cfg = load_cfg(NETWORKS[name], [*chosen, *(["OCTAVE.FAST_ALPHA", value] if "SlowFast" in name else [])])
    torch.manual_seed(0)
    return build_model(cfg), (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.DATA.TRAIN_CROP)


def _clips(shape: tuple[int, int, int], count: int, device: torch.device) -> torch.Tensor:
    return torch.randn(count, *shape, 3, device=device).permute(0, 4, 1, 2, 3)


def differences(device: torch.device, keys: list[str]) -> dict[str, float]:
    """Return how far the logits of the device are from those of the CPU, relative to the largest, without TF32."""
    found = {}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name in NETWORKS:
        for alpha in COMPILED:
            network, shape = _network(name, alpha, keys)
            clips = _clips(shape, 2, torch.device("cpu"))
            with torch.inference_mode():
                expected = network.eval()(clips)
                logits = channels_last(network.to(device))(clips.to(device)).cpu()
            found[f"{name}, {alpha}"] = relative_difference(logits, expected)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return found


class _Inference:
    """A forward pass without gradients."""

    def __init__(self, network: nn.Module, clips: torch.Tensor, bf16: bool, compiled: bool) -> None:
        self.network = network.eval()
        self.clips, self.bf16 = clips, bf16
        if compiled:
            self.network = torch.compile(self.network, mode="reduce-overhead")  # CUDA graphs

    @torch.no_grad()
    def __call__(self) -> None:
        with torch.autocast(self.clips.device.type, torch.bfloat16, enabled=self.bf16):
            self.network(self.clips)


class _Step:
    """A training step of SGD on random labels."""

    def __init__(self, network: nn.Module, clips: torch.Tensor, bf16: bool, compiled: bool) -> None:
        self.network = network.train()
        self.clips, self.bf16 = clips, bf16
        self.labels = torch.randint(0, 400, (len(clips),), device=clips.device)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
        if compiled:
            self.network = torch.compile(self.network, mode="reduce-overhead")

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.clips.device.type, torch.bfloat16, enabled=self.bf16):
            loss = nn.functional.cross_entropy(self.network(self.clips), self.labels)
        loss.backward()
        self.optimizer.step()


def _measure(works: dict[str, Callable[[], None]], clips: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Return clips per second and peak memory of each, and the ratio to the vanilla network in the same mode."""
    memory = {}
    for name, work in works.items():
        for _ in range(3):
            work()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            work()
            memory[name] = (torch.cuda.max_memory_allocated() - held) / 1e6
    seconds = interleaved({name: partial(timed, work) for name, work in works.items()}, rounds)
    rows: dict[str, Any] = {}
    for name, value in seconds.items():
        rows[name] = {"clips_per_s": clips / value, "peak_memory_mb": memory.get(name)}
        vanilla = seconds.get(", ".join(["0", *name.split(", ")[1:]]))
        if vanilla is not None:
            rows[name]["speedup"] = vanilla / value
    return rows


def _peers(device: torch.device) -> dict[str, nn.Module]:
    """Return PyTorchVideo's own networks, as its users run them."""
    from pytorchvideo.models import hub

    return {"I3D-50": hub.i3d_r50(pretrained=False).to(device)}


def measure(device: torch.device, count: int, rounds: int, keys: list[str], *, compiles: bool) -> dict[str, Any]:
    """Return the figures of all networks: by network, then by inference or training, then by alpha and mode."""
    found: dict[str, Any] = {}
    peers = {} if keys else _peers(device)
    for name in NETWORKS:
        for kind, work in (("inference", _Inference), ("training", _Step)):
            rows: dict[str, Any] = {}
            for bf16 in (False, True):
                mode = "bf16" if bf16 else "fp32"
                works: dict[str, Callable[[], None]] = {}
                for alpha in ALPHAS:
                    network, shape = _network(name, alpha, keys)
                    network = channels_last(network.to(device))
                    clips = _clips(shape, count, device)
                    network = fold_batch_norm(network) if kind == "inference" else network
                    works[f"{alpha}, {mode}"] = work(network, clips, bf16, False)
                    if compiles and bf16 and alpha in COMPILED:
                        works[f"{alpha}, {mode}, compiled"] = work(network, clips, bf16, True)
                if name in peers:
                    works[f"PyTorchVideo, {mode}"] = work(peers[name], clips.contiguous(), bf16, False)
                rows |= _measure(works, count, rounds, device)
                del works, network
                gc.collect()
                torch.cuda.empty_cache()
            found.setdefault(name, {})[kind] = rows
            print(name, kind, *(f"  {key:28} {row}" for key, row in rows.items()), sep="\n", flush=True)
    return found


def main() -> None:
    """Measure, print and write; exit code 1 where the GPU's logits are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clips", type=int, default=8, help="in a batch (8)")
    parser.add_argument("--device", default="cuda", help="cpu: only to try the script, with small networks")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("keys", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    result: dict[str, Any] = {"benchmark": "gpu", "hardware": hardware(), "rounds": args.rounds, "clips": args.clips}
    result["differences"] = differences(device, args.keys)
    print("differences", result["differences"], flush=True)
    result["networks"] = measure(device, args.clips, args.rounds, args.keys, compiles=not args.no_compile)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    wrong = [name for name, value in result["differences"].items() if not value <= TOLERANCE]
    if wrong:
        raise SystemExit(f"error: the logits of {', '.join(wrong)} are not those of the CPU")


if __name__ == "__main__":
    main()
