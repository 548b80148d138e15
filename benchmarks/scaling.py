#!/usr/bin/env python
"""Estimate the time for Kinetics-400 on many GPUs: a small model of a training step; assumptions are arguments.

Computing, exchanging gradients and decoding overlap, so the longest of them is the time of a step::

    compute   clips per GPU x 6 x multiply-adds / (peak x efficiency)         forward 2 FLOPs each, backward twice that
    exchange  ring all-reduce of the gradients: 2 (n - 1) / n x bytes / bandwidth + latency x steps of the ring;
              it overlaps with the backward pass, two thirds of computing
    decode    clips per GPU x seconds per clip / cores per GPU
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Assumptions:
    """The assumptions. Units are in the names or in comments."""

    clips_per_gpu: int = 8  # batch of each GPU
    train_clips: float = 19.2e6  # 300k iterations of 64 clips
    peak_tflops: float = 312.0  # of a GPU: A100, bf16
    efficiency: float = 0.26  # of the peak; 8 V100 in fp32: 188 clips/s of I3D (mmaction2), which is 26 %
    gpus_per_node: int = 8
    node_gbytes_per_s: float = 25.0  # network of a node: 200 Gbit/s
    gpu_gbytes_per_s: float = 300.0  # between the GPUs of a node: NVLink, per direction
    latency_us: float = 10.0  # of a step of the ring
    decode_core_ms: float = 65.0  # one core, a training clip of 8 x 8 frames: 62 to decode (docs/loading.md), crop
    cores_per_gpu: int = 8
    file_mbytes: float = 1.3  # a Kinetics video of 10 s, short side 256 to 340
    test_videos: int = 19_881
    test_views: int = 30
    test_core_ms: float = 400.0  # one core: all frames of 30 views
    disk_gbytes_per_s: float = 1.0  # for a checkpoint
    checkpoint_every: int = 2000  # steps


def estimate(gpus: int, gmacs: float, params_m: float, a: Assumptions) -> dict[str, float]:
    """Return times of a step and of the training, and the storage and cores that it needs.

    Args:
        gpus: of the run.
        gmacs: 10^9 multiply-adds of one training clip, forward.
        params_m: 10^6 parameters, exchanged in fp32.
        a: the assumptions.
    """
    compute = a.clips_per_gpu * 6 * gmacs / (1000 * a.peak_tflops * a.efficiency)
    nodes = math.ceil(gpus / a.gpus_per_node)
    bandwidth = a.gpu_gbytes_per_s if nodes == 1 else a.node_gbytes_per_s
    ranks = gpus if nodes == 1 else nodes  # between nodes: one ring of nodes, after a sum within each
    exchange = 2 * (ranks - 1) / ranks * params_m * 4e-3 / bandwidth + 2 * (ranks - 1) * a.latency_us * 1e-6
    decode = a.clips_per_gpu * a.decode_core_ms / 1000 / a.cores_per_gpu
    step = max(compute + max(0.0, exchange - compute * 2 / 3), decode)
    batch = gpus * a.clips_per_gpu
    steps = math.ceil(a.train_clips / batch)
    checkpoint_gb = params_m * 8e-3  # weights and momentum
    test = a.test_videos * max(
        a.test_views * 2 * gmacs * (256 / 224) ** 2 / (1000 * a.peak_tflops * a.efficiency),
        a.test_core_ms / 1000 / a.cores_per_gpu,
    )
    return {
        "gpus": gpus,
        "batch": batch,
        "steps": steps,
        "compute_ms": 1000 * compute,
        "exchange_ms": 1000 * exchange,
        "decode_ms": 1000 * decode,
        "step_ms": 1000 * step,
        "clips_per_s": batch / step,
        "hours": steps * step / 3600 + steps / a.checkpoint_every * checkpoint_gb / a.disk_gbytes_per_s / 3600,
        "cores_per_gpu_needed": a.clips_per_gpu * a.decode_core_ms / 1000 / compute,
        "read_gbytes_per_s": batch / step * a.file_mbytes / 1000,
        "checkpoint_gb": checkpoint_gb,
        "test_minutes": test / gpus / 60,
    }


def main() -> None:
    """Print the estimates of configurations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", nargs="+", default=["i3d_k400.yaml", "oct_i3d_k400.yaml"], help="configurations")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--json", action="store_true", help="machine-readable")
    for field in fields(Assumptions):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help="(%(default)s)")
    args = parser.parse_args()

    from octvideo import build_model, load_cfg
    from octvideo.octave.complexity import count

    assumptions = Assumptions(**{field.name: getattr(args, field.name) for field in fields(Assumptions)})
    found = {}
    for name in args.cfg:
        cfg = load_cfg(name)
        cost = count(build_model(cfg), (1, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.DATA.TRAIN_CROP))
        gmacs, params = cost.multiply_adds / 1e9, cost.params / 1e6
        found[name] = [estimate(gpus, gmacs, params, assumptions) for gpus in args.gpus]
    if args.json:
        print(json.dumps({"assumptions": asdict(assumptions), "results": found}, indent=1))
        return
    for name, rows in found.items():
        print(f"\n{name}")
        for key in rows[0]:
            print(f"  {key:22s}" + "".join(f"{row[key]:14.4g}" for row in rows))


if __name__ == "__main__":
    main()
