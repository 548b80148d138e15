#!/usr/bin/env python
"""Compare the speed of two checkouts: a training step and a clip of small networks, in turns.

``python benchmarks/checkouts.py OLD NEW``: each checkout has a process, one thread, and they take turns. Figures are
medians of processor time; the ratio is NEW's share of OLD's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

# Configuration, clips of a training step.
NETWORKS = {
    "quickstart, alpha 0.25": ("quickstart/oct_i3d.yaml", 16),
    "quickstart, alpha 0": ("quickstart/i3d.yaml", 16),
    "small, alpha 0.5": ("oct_small.yaml", 4),
    "small, alpha 0": ("small.yaml", 4),
}


def serve() -> None:
    """Build each named network and time it, as lines of standard input ask."""
    import torch

    from octvideo import build_model, load_cfg
    from octvideo.models.build import channels_last

    torch.set_num_threads(1)
    networks: dict[str, Any] = {}
    for line in sys.stdin:
        name, _, work = line.strip().partition("|")
        if name not in networks:
            config, count = NETWORKS[name]
            cfg = load_cfg(config)
            size = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.DATA.TRAIN_CROP, 3)
            clips = torch.randn(count, *size).permute(0, 4, 1, 2, 3)
            networks[name] = channels_last(build_model(cfg)), clips
        network, clips = networks[name]
        start = time.process_time()
        if work == "step":
            network.train()(clips).square().mean().backward()
            network.zero_grad(set_to_none=True)
        else:
            with torch.inference_mode():
                network.eval()(clips[:1])
        print(time.process_time() - start, flush=True)


def ask(server: subprocess.Popen[str], question: str) -> float:
    """Return the seconds that a server's answer has."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(f"{question}\n")
    server.stdin.flush()
    return float(server.stdout.readline())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs=2, type=Path, metavar=("OLD", "NEW"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    servers = []
    for checkout in args.checkouts:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--serve"]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        servers.append(subprocess.Popen(command, env=environment, cwd=checkout, **pipes))
    result: dict[str, Any] = {"benchmark": "checkouts", "rounds": args.rounds, "seconds": {}}
    for name in NETWORKS:
        for work, each in (("step", 1), ("clip", 10)):
            question = f"{name}|{work}"
            for server in servers:
                ask(server, question), ask(server, question)
            rounds = [[sum(ask(s, question) for _ in range(each)) / each for s in servers] for _ in range(args.rounds)]
            old, new = (median(column) for column in zip(*rounds))
            ratio = median(after / before for before, after in rounds)
            result["seconds"][f"{name}, {work}"] = {"old": old, "new": new, "ratio": ratio}
            print(f"{name + ', ' + work:32} {1000 * old:8.1f} ms {1000 * new:8.1f} ms {ratio:6.3f}", flush=True)
    if args.json:
        from octvideo.benchmarking.timing import hardware

        args.json.write_text(json.dumps(result | {"hardware": hardware()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
