#!/usr/bin/env python
"""Test whether a network sees the direction of time: Oct-I3D against Oct-C2D, its twin with temporal kernels of 1.

Both learn the quickstart's actions, of which two pairs differ only in the direction of time. A network that ignores
the order of the frames can only guess within such a pair. Finished runs in the output folder are not repeated: after
`make quickstart` only Oct-C2D is trained.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAIRS = (("sit_down", "stand_up"), ("arms_open", "arms_close"))
NETWORKS = {"Oct-I3D": "oct_i3d", "Oct-C2D": "oct_c2d"}


def run(*command: str) -> None:
    """Run a command; exit if it fails."""
    if code := subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
        sys.exit(f"error: '{' '.join(command)}' ended with exit code {code}; the reason is above")


def measure(folder: Path) -> dict[str, Any]:
    """Return accuracies in percent: of all clips, of the reversed pairs, and with each pair taken as one class."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "confusion_matrix.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    counts = {row[0]: dict(zip(header[1:], map(int, row[1:]))) for row in rows}
    total = sum(sum(counts[name].values()) for pair in PAIRS for name in pair)
    right = sum(counts[name][name] for pair in PAIRS for name in pair)
    either = sum(counts[name][twin] for pair in PAIRS for name in pair for twin in pair)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "top1": metrics["top1"],
        "num_videos": metrics["num_videos"],
        "pairs_top1": 100 * right / total,
        "pairs_either": 100 * either / total,
        "num_pair_videos": total,
        "per_class": {name: metrics["per_class"][name] for pair in PAIRS for name in pair},
        "steps": max(entry["step"] for entry in log if "step" in entry),
    }


def as_page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page in docs/."""
    names = [name for pair in PAIRS for name in pair]
    lines = [
        "# The direction of time",
        "",
        "Does a network see the order of the frames? Two pairs of the sample actions differ only in the direction of",
        "time: `sit_down` / `stand_up` and `arms_open` / `arms_close`. Oct-C2D is the quickstart's Oct-I3D with",
        "temporal kernels of 1. It sees the same frames without their order: within a pair it can only guess (50 %).",
        "",
        "```sh",
        "make quickstart",
        "python benchmarks/time_direction.py",
        "```",
        "",
        "30-view top-1 in percent, one run each:",
        "",
        "| network | all clips | reversed pairs | the pair taken as one class | " + " | ".join(names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for network, found in results.items():
        cells = [found["top1"], found["pairs_top1"], found["pairs_either"], *(found["per_class"][n] for n in names)]
        lines.append(f"| {network} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    first = next(iter(results.values()))
    lines += [
        "",
        f"{first['num_videos']} clips of unseen figures, {first['num_pair_videos']} of them in the pairs; "
        f"{first['steps']} training steps each.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train missing runs, compare, write the page and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/quickstart", help="folder of `make quickstart`, or a new one")
    parser.add_argument("--page", default=ROOT / "docs" / "time_direction.md", type=Path, help="the page to write")
    parser.add_argument("--json", default=ROOT / "benchmarks" / "results" / "time_direction.json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    args = parser.parse_args()
    data = Path(args.output, "data")
    run("data_tools/make_sample_dataset.py", "--output", str(data))
    results = {}
    for network, cfg in NETWORKS.items():
        folder = Path(args.output, cfg)
        keys = ["DATA.TRAIN", str(data / "train"), "DATA.VAL", str(data / "val"), "OUTPUT_DIR", str(folder)]
        run("tools/run_net.py", "--cfg", f"configs/quickstart/{cfg}.yaml", *keys, *args.overrides)
        results[network] = measure(ROOT / folder)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    args.page.write_text(as_page(results), encoding="utf-8")
    print(as_page(results))


if __name__ == "__main__":
    main()
