#!/usr/bin/env python
"""Measure from how many clips on a conversion to OpenVINO pays: its time, and what a clip takes in both backends.

``--backend auto`` converts a network for ``octvideo.backends.auto.MANY_CLIPS`` clips or more.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from octvideo.backends.cache import network_key
from octvideo.backends.runners import create_runner
from octvideo.benchmarking.timing import hardware, interleaved, timed
from octvideo.config import load_cfg
from octvideo.models import build_model

NETWORKS = {
    "small I3D, alpha .5, multiple of 16": ("oct_small.yaml", []),
    "X3D-S": ("x3d_s_k400.yaml", []),
    "I3D-50": ("i3d_k400.yaml", []),
    "I3D-50, alpha .5": ("oct_i3d_k400.yaml", ["OCTAVE.ALPHA", "0.5"]),
    "SlowFast 8x8, alpha .25": ("oct_slowfast_8x8_k400.yaml", []),
}


def measure(name: str, keys: list[str], rounds: int) -> dict[str, Any]:
    """Return the seconds of a network's conversion, of its start from the cache, and of a clip."""
    cfg = load_cfg(name, keys)
    size = cfg.DATA.TRAIN_CROP
    shape = (cfg.DATA.NUM_FRAMES, size, size)
    device, clip = torch.device("cpu"), torch.randn(1, 3, *shape)
    model = build_model(load_cfg(name, [*keys, "MODEL.CONV_AS_2D", "True"])).eval()

    def start(make: Callable[[], Any]) -> tuple[Any, float]:
        begin = time.perf_counter()
        made = make()
        return made, time.perf_counter() - begin

    key, hashing = start(lambda: network_key(model, cfg, shape))
    _, conversion = start(lambda: create_runner("openvino", model, shape, device, key=key))
    openvino, reading = start(lambda: create_runner("openvino", model, shape, device, key=key))
    runs = {"torch": create_runner("torch", model, shape, device), "openvino": openvino}
    for run in runs.values():
        run(clip)
    seconds = interleaved({each: partial(timed, partial(run, clip)) for each, run in runs.items()}, rounds)
    gain = seconds["torch"] - seconds["openvino"]
    return {
        "seconds_hashing": hashing,
        "seconds_conversion": conversion,
        "seconds_from_cache": reading,
        "seconds_a_clip": seconds,
        "pays_from_clips": conversion / gain if gain > 0 else None,
    }


def main() -> None:
    """Measure all networks and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "start", "hardware": hardware(), "rounds": args.rounds, "networks": {}}
    import openvino

    result["openvino"] = openvino.__version__
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        # The first conversion in a process imports much.
        create_runner("openvino", torch.nn.Conv3d(3, 1, 1).eval(), (2, 8, 8), torch.device("cpu"))
        for title, (name, keys) in NETWORKS.items():
            result["networks"][title] = found = measure(name, keys, args.rounds)
            print(title, json.dumps(found), flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
