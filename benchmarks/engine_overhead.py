#!/usr/bin/env python
"""Measure the cost of the engine in a training step, compared with a bare loop, over several processes.

One process is not enough: ratios differ by a few percent between processes, even that of the bare loop to itself. So
`tools/benchmark.py train` runs in N processes in turn. The result is the median of their ratios with a 95 % confidence
interval for any distribution (sign test). The ratio of the bare loop to itself shows the resolution of the method.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def measure(rounds: int, overrides: list[str]) -> dict[str, Any]:
    """Run one process; exit if it fails."""
    command = ["tools/benchmark.py", "train", "--json", "--rounds", str(rounds), *overrides]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        sys.exit(f"error: '{' '.join(command)}' ended with exit code {done.returncode}; the reason is above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def interval(values: list[float]) -> list[float]:
    """Return the narrowest pair of values that encloses the median with 95 % confidence (sign test)."""
    outside, below, count = 0, 0.0, len(values)
    while (below := below + math.comb(count, outside) / 2**count) <= 0.025:
        outside += 1
    low = max(outside - 1, 0)
    return [sorted(values)[low], sorted(values)[-1 - low]]


def main() -> None:
    """Measure, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=12, metavar="N", help="at least 6, for an interval (12)")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="rounds of each process (8)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    args = parser.parse_intermixed_args()
    if args.processes < 6:
        parser.error("--processes: 95 % needs at least 6")
    found = []
    for number in range(args.processes):
        print(f"process {number + 1} of {args.processes}", file=sys.stderr)
        found.append(measure(args.rounds, args.overrides))
    ratio = {}
    for name in found[0]["ratio"]:
        values = [one["ratio"][name] for one in found]
        ratio[name] = {"median": median(values), "interval": interval(values), "processes": values}
        low, high = ratio[name]["interval"]
        print(f"{name:60s}{median(values):7.3f}   [{low:.3f}, {high:.3f}]")
    if args.out:
        report = {key: found[0][key] for key in ("hardware", "rounds")} | {"ratio": ratio}
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
