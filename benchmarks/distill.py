#!/usr/bin/env python
"""Measure the short way from a trained I3D to its octave twin: fine-tuning with and without the I3D as a teacher.

All runs start from the I3D's weights, at OCTAVE.ALPHA 0.25, and take the same batches. Their targets are the labels,
the labels and the teacher's answers, or the teacher's answers alone, on the same clips without labels. The last way
has labels of a tenth of the clips, and no others. Finished runs in the output folder are not repeated. Train the I3D
first:
``make quickstart; python tools/run_net.py --cfg configs/quickstart/i3d.yaml OUTPUT_DIR output/quickstart/i3d``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(args: argparse.Namespace, folder: Path, *keys: str) -> dict[int, float]:
    """Train, or read a finished run; return the validation accuracy in percent by step."""
    command = ["tools/run_net.py", "--cfg", "configs/quickstart/oct_i3d.yaml", "OUTPUT_DIR", str(folder)]
    shared = {
        "DATA.TRAIN": args.data / "train",
        "DATA.VAL": args.data / "val",
        "TRAIN.CHECKPOINT": args.teacher,
        "TRAIN.STEPS": args.steps,
        "TRAIN.CHECKPOINT_EVERY": args.steps,
        "TRAIN.EVAL_EVERY": args.every,
        "TRAIN.EVAL_CLIPS": 2,
        "TEST.ENABLE": False,
    }
    pairs = [str(part) for pair in shared.items() for part in pair]
    if not (folder / "checkpoints" / "last.pt").is_file():
        if code := subprocess.run([sys.executable, *command, *pairs, *keys], cwd=ROOT).returncode:
            sys.exit(f"error: the run in {folder} ended with exit code {code}; the reason is above")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {entry["step"]: entry["top1"] for entry in log if entry["kind"] == "val"}


def table(results: dict[str, list[dict[int, float]]]) -> str:
    """Return a Markdown table: a row for each step, the mean over the seeds."""
    lines = [f"| steps | {' | '.join(results)} |", f"|---|{'---|' * len(results)}"]
    for step in next(iter(results.values()))[0]:
        means = [sum(seed[step] for seed in seeds) / len(seeds) for seeds in results.values()]
        lines.append(f"| {step} | {' | '.join(f'{mean:.1f} %' for mean in means)} |")
    return "\n".join(lines)


def main() -> None:
    """Take all runs and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("output/quickstart/data"), help="rendered clips")
    parser.add_argument("--teacher", type=Path, default=Path("output/quickstart/i3d/checkpoints/last.pt"))
    parser.add_argument("--output", type=Path, default=Path("output/distill"), help="folder of the runs")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=25, help="steps between evaluations")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    args.data, args.teacher, args.output = (path.resolve() for path in (args.data, args.teacher, args.output))
    args.output.mkdir(parents=True, exist_ok=True)
    clips = sorted((args.data / "train").rglob("*.mp4"))
    unlabelled, tenth = args.output / "clips.txt", args.output / "tenth.txt"
    unlabelled.write_text("".join(f'"{path}"\n' for path in clips), encoding="utf-8")
    tenth.write_text("".join(f'"{path}" {path.parent.name}\n' for path in clips[::10]), encoding="utf-8")
    teacher = ("TRAIN.TEACHER", str(args.teacher))
    ways = {
        "labels": (),
        "labels and teacher": teacher,
        "teacher alone": (*teacher, "DATA.TRAIN", str(unlabelled)),
        "a tenth of the labels": ("DATA.TRAIN", str(tenth)),
    }
    results: dict[str, list[dict[int, float]]] = {way: [] for way in ways}
    for seed in range(args.seeds):
        for way, keys in ways.items():
            folder = args.output / f"{way.replace(' ', '_')}_{seed}"
            results[way].append(run(args, folder, *keys, "SEED", str(seed)))
    print(table(results))
    if args.json:
        record = {"steps": args.steps, "seeds": args.seeds, "date": time.strftime("%Y-%m-%d"), "results": results}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
