#!/usr/bin/env python
"""Measure what int8 costs in accuracy: the networks of benchmarks/evidence.py, each on the videos that tested it.

int8 takes its ranges from 200 of the training videos, as ``octvideo export --precision int8`` does. A network that is
recorded is not measured again. ``--table`` prints what is recorded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from octvideo.benchmarking.precisions import in_precision  # noqa: E402
from octvideo.engine.networks import load_network  # noqa: E402

STUDIES = ("rendered", "ablations", "inflation", "weizmann")


def table(runs: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table: a row for each network and seed, over its folds."""
    folds: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for found in runs:
        folds[found["study"], found["network"], found["seed"]].append(found)
    lines = ["| set | network | seed | N | float32, % | int8, % | difference, points |", "|---" * 7 + "|"]
    for (study, network, seed), parts in sorted(folds.items()):
        tested = [part["num_videos"] - part["num_failed"] for part in parts]
        f32, int8 = (
            sum(part["top1"][precision] * number for part, number in zip(parts, tested)) / sum(tested)
            for precision in ("f32", "int8")
        )
        lines.append(f"| {study} | {network} | {seed} | {sum(tested)} | {f32:.1f} | {int8:.1f} | {int8 - f32:+.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the networks that are not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--table", action="store_true", help="print the table, without a measurement")
    parser.add_argument("--output", type=Path, default=Path("output/evidence"), help="folder of the trained networks")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/int8.json", help="the record")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
    found = (path for study in STUDIES for path in sorted((args.output / study).glob("*/*/*/checkpoints/last.pt")))
    for checkpoint in () if args.table else found:
        name = checkpoint.parents[1].relative_to(args.output).as_posix()
        if name not in runs:
            study, network, seed, _ = name.split("/")
            trained = load_network(checkpoint)
            _, _, measured = in_precision(trained, "int8", trained.cfg.DATA.TRAIN, trained.cfg.DATA.VAL)
            kept = {key: value for key, value in measured.items() if key != "list"}
            what = {"study": study, "network": network.replace("_", " "), "seed": seed.removeprefix("seed-")}
            runs[name] = {**what, **kept}
            args.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print(table(runs.values()))


if __name__ == "__main__":
    main()
