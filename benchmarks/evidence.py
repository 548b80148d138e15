#!/usr/bin/env python
"""Train and test the networks that docs/results.md compares, and keep what each run reaches as JSON.

Name one or more studies: ``python benchmarks/evidence.py rendered fights``. Each run is recorded when it ends, and a
recorded run is not repeated. A stopped run resumes. ``--table`` prints the tables of the recorded runs.

Render the videos first:
``python data_tools/make_sample_dataset.py --hard --train-per-class 200 --val-per-class 250 --output output/hard/data``.
``weizmann`` and ``fights`` need real videos: ``--data`` is the folder that has ``weizmann/ACTION/PERSON_ACTION.avi``,
``fight_surveillance/CLASS/CLIP.mp4`` and ``manifest.csv``, which names the source of each clip.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from weizmann import FOLDS as PERSONS  # noqa: E402

from octvideo.analysis.pictures.compare import Result, draw_comparison  # noqa: E402
from octvideo.analysis.report_run import Run  # noqa: E402
from octvideo.benchmarking.timing import hardware  # noqa: E402
from octvideo.config import load_cfg  # noqa: E402
from octvideo.engine.metrics import wilson_interval  # noqa: E402
from octvideo.models import build_model  # noqa: E402
from octvideo.octave.complexity import count  # noqa: E402

HARD = "configs/hard/i3d.yaml"
SHORT_SIDE = 112  # of the surveillance clips, pixels: larger ones would only take longer to decode
NUM_FOLDS = 5
# The runs of ``rendered`` that stand first in the table of another study.
BESIDE = {
    "ablations": ("0/seed-0/fold-0",),
    "inflation": tuple(f"{alpha}/seed-{seed}/fold-0" for alpha in ("0", "0.25x8") for seed in (1, 2)),
}


class Plan(NamedTuple):
    """A run to do: its network (the row of the table), seed, fold, configuration and keys."""

    network: str
    seed: int
    fold: int
    cfg: str
    keys: Mapping[str, object]

    @property
    def name(self) -> str:
        return f"{self.network}/seed-{self.seed}/fold-{self.fold}".replace(" ", "_").replace(",", "")


def octave(alpha: str) -> dict[str, object]:
    """Return the keys of an alpha like ``0.25x8``."""
    value, _, multiple = alpha.partition("x")
    return {"OCTAVE.ALPHA": value, "OCTAVE.MULTIPLE": multiple or "1"}


def rendered(args: argparse.Namespace) -> Iterator[Plan]:
    """The small I3D on the hard rendered set: four alphas, three seeds."""
    for seed in range(3):
        for alpha in ("0", "0.125x8", "0.25x8", "0.5x8"):
            yield Plan(alpha, seed, 0, HARD, args.lists | octave(alpha))


def ablations(args: argparse.Namespace) -> Iterator[Plan]:
    """Why octave loses in ``rendered``: twice the steps, and octave in fewer stages."""
    longer = {"TRAIN.STEPS": "2400"}
    for alpha in ("0", "0.25x8"):
        yield Plan(f"{alpha} 2400 steps", 0, 0, HARD, args.lists | octave(alpha) | longer)
    for stages in ("[2]", "[2, 3]"):
        name = f"0.25x8 stages {stages.strip('[]')}"
        yield Plan(name, 0, 0, HARD, args.lists | octave("0.25x8") | {"OCTAVE.STAGES": stages})


def others(args: argparse.Namespace) -> Iterator[Plan]:
    """C2D and SlowFast on the hard rendered set: two alphas, one seed."""
    slowfast = {"DATA.NUM_FRAMES": "16", "DATA.SAMPLING_RATE": "2", "MODEL.SLOWFAST.CHANNEL_RATIO": "4"}
    for arch, keys in (("c2d", {}), ("slowfast", slowfast)):
        keys = {"MODEL.ARCH": arch, "MODEL.TEMPORAL_KERNELS": "[]", "MODEL.STEM_KERNEL": "[]", **keys}
        for alpha in ("0", "0.25x8"):
            yield Plan(f"{arch} {alpha}", 0, 0, HARD, args.lists | keys | octave(alpha))


def scales(args: argparse.Namespace) -> Iterator[Plan]:
    """The trained networks of ``rendered`` at other sizes (Table 7), on every fifth test video."""
    videos = sorted((args.rendered / "val").rglob("*.mp4"))[::5]
    listed = args.output / "scales" / "videos.csv"
    write_list(listed, ((path, path.parent.name) for path in videos))
    for plan in rendered(args):
        checkpoint = trained_weights(args, plan)
        if checkpoint.is_file():
            keys = {"TRAIN.ENABLE": "False", "TEST.CHECKPOINT": checkpoint, "TEST.SCALES": "[48, 64, 80, 96]"}
            yield plan._replace(keys={**plan.keys, **keys, "DATA.VAL": listed})


def trained_weights(args: argparse.Namespace, plan: Plan) -> Path:
    """Return the checkpoint of a run of ``rendered``."""
    return args.output / "rendered" / plan.name / "checkpoints" / "last.pt"


def faster(args: argparse.Namespace) -> Iterator[Plan]:
    """From the trained I3D of ``rendered`` to its octave twin in few steps, with and without the I3D as a teacher."""
    teachers = [trained_weights(args, plan) for plan in rendered(args) if plan.network == "0"]
    teacher = next((path for path in teachers if path.is_file()), teachers[0])
    for steps in ("100", "300"):
        keys = octave("0.25x8") | {"TRAIN.CHECKPOINT": teacher, "TRAIN.STEPS": steps, "SOLVER.WARMUP_STEPS": "20"}
        yield Plan(f"labels {steps} steps", 0, 0, HARD, args.lists | keys)
        yield Plan(f"teacher {steps} steps", 0, 0, HARD, args.lists | keys | {"TRAIN.TEACHER": teacher})


def inflation(args: argparse.Namespace) -> Iterator[Plan]:
    """An image network trained on frames of the rendered set, and the small I3D that starts from it (Table 6)."""
    image = {"MODEL.ARCH": "resnet50", "MODEL.TEMPORAL_KERNELS": "[]", "MODEL.STEM_KERNEL": "[]"}
    image |= {"DATA.NUM_FRAMES": "1", "TRAIN.BATCH_SIZE": "64", "SOLVER.BASE_BATCH_SIZE": "64"}
    for seed, alpha in product((1, 2), ("0", "0.25x8")):
        keys = args.lists | octave(alpha)
        frames = Plan(f"frames {alpha}", seed, 0, HARD, keys | image)
        yield frames
        start = args.output / "inflation" / frames.name / "checkpoints" / "last.pt"
        yield Plan(f"inflated {alpha}", seed, 0, HARD, keys | {"TRAIN.CHECKPOINT": start})


def weizmann(args: argparse.Namespace) -> Iterator[Plan]:
    """Three folds of three persons; two seeds."""
    folds = {person: number for number, persons in enumerate(PERSONS) for person in persons}
    paths = sorted((args.data / "weizmann").glob("*/*.avi"))
    if not paths:
        sys.exit(f"error: {args.data}/weizmann: no video; --data is the folder of the real videos")
    videos = [(path.resolve(), path.parent.name, folds[path.name.split("_")[0]]) for path in paths]
    yield from in_folds("configs/weizmann/i3d.yaml", (2, 3), {}, videos, args.output / "weizmann")


def fights(args: argparse.Namespace) -> Iterator[Plan]:
    """Fight or not in surveillance video: five folds, the clips of one source in one fold; one seed."""
    if not (args.data / "manifest.csv").is_file():
        sys.exit(f"error: {args.data}/manifest.csv: no such file; --data is the folder of the real videos")
    with (args.data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("fight_surveillance/")]
    sources: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        sources[row["group"]].append(row)
    sizes: Counter[int] = Counter(dict.fromkeys(range(NUM_FOLDS), 0))
    videos = []
    # The largest source first, each into the fold that is smallest so far.
    for _, clips in sorted(sources.items(), key=lambda item: (-len(item[1]), item[0])):
        fold = min(sizes, key=lambda number: (sizes[number], number))
        sizes[fold] += len(clips)
        for row in clips:
            small = args.output / "fights" / "clips" / Path(row["file"]).relative_to("fight_surveillance")
            if not small.is_file():
                shrink(args.data / row["file"], small)
            videos.append((small, row["label"], fold))
    sides = {"DATA.TRAIN_CROP": "80", "DATA.TEST_CROP": "80", "DATA.TRAIN_SHORT_SIDE": "[80, 112]"}
    keys = {"DATA.TEST_SHORT_SIDE": "88", "DATA.COLOR_JITTER": "0.4", "MODEL.DROPOUT": "0.3", "MODEL.NUM_CLASSES": "2"}
    length = {"TRAIN.STEPS": "400", "TRAIN.BATCH_SIZE": "8", "TEST.NUM_CROPS": "3"}
    yield from in_folds(HARD, (0,), {**sides, **keys, **length}, videos, args.output / "fights")


def in_folds(
    cfg: str, seeds: Sequence[int], keys: Mapping[str, object], videos: Sequence[tuple[Path, str, int]], folder: Path
) -> Iterator[Plan]:
    """Yield the runs of two alphas; a video is a path, a label and the fold that tests it."""
    for fold in sorted({fold for _, _, fold in videos}):
        for name, testing in (("train", False), ("val", True)):
            listed = ((path, label) for path, label, tested in sorted(videos) if (tested == fold) == testing)
            write_list(folder / f"fold-{fold}" / f"{name}.csv", listed)
    for seed in seeds:
        for fold in sorted({fold for _, _, fold in videos}):
            lists = {
                "DATA.TRAIN": folder / f"fold-{fold}" / "train.csv",
                "DATA.VAL": folder / f"fold-{fold}" / "val.csv",
            }
            for alpha in ("0", "0.25x8"):
                yield Plan(alpha, seed, fold, cfg, {**keys, **lists, **octave(alpha)})


def write_list(path: Path, videos: Iterable[tuple[Path, str]]) -> None:
    """Write a list of ``path,label`` lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(videos)


def shrink(source: Path, target: Path) -> None:
    """Write a small copy of a video."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.mp4")
    scale = f"scale='if(gt(iw,ih),-2,{SHORT_SIDE})':'if(gt(iw,ih),{SHORT_SIDE},-2)'"
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source), "-an", "-vf", scale, "-crf", "18", str(part)]
    if subprocess.run(command).returncode:
        sys.exit(f"error: {source}: ffmpeg could not shrink it; the reason is above")
    part.rename(target)


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Train and test; return what is recorded of the run."""
    start = time.perf_counter()
    keys = {**plan.keys, "SEED": plan.seed, "OUTPUT_DIR": folder}
    command = ["tools/run_net.py", "--cfg", plan.cfg, *(str(part) for item in keys.items() for part in item)]
    if code := subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
        sys.exit(f"error: the run in {folder} ended with exit code {code}; the reason is above")
    found = Run(folder)
    tested = sorted(found.tested, key=lambda video: video.path)
    return {
        "network": plan.network,
        "seed": plan.seed,
        "fold": plan.fold,
        "top1": found.metrics["top1"],
        "num_failed": found.metrics["num_failed"],
        "right": "".join(str(int(video.predicted == video.label)) for video in tested),  # in the order of the paths
        "scales": found.metrics.get("scales"),
        "seconds": round(time.perf_counter() - start),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
    }


def recorded(path: Path) -> dict[str, Any]:
    """Return the runs of a file, by their names; none if it is not there."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def table(runs: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table: a row for each network, over its seeds and folds."""
    right: dict[str, dict[int, str]] = {}
    for found in sorted(runs, key=lambda found: found["fold"]):
        seeds = right.setdefault(found["network"], {})
        seeds[found["seed"]] = seeds.get(found["seed"], "") + found["right"]
    lines = [
        "| network | N | top-1, % | 95 % interval | sd over seeds | each seed | difference, points |",
        "|---" * 7 + "|",
    ]
    for network, seeds in right.items():
        top1 = {seed: 100 * mean(map(int, answers)) for seed, answers in sorted(seeds.items())}
        total, average = len(next(iter(seeds.values()))), mean(top1.values())
        low, high = wilson_interval(round(average * total / 100), total)
        spread = f"{stdev(top1.values()):.1f}" if len(top1) > 1 else ""
        each = ", ".join(f"{value:.1f}" for value in top1.values())
        # The vanilla network that was trained in the same way.
        vanilla = re.sub(r"\b0\.\d+(x\d+)?( stages .*)?", "0", network)
        apart = difference(seeds, right[vanilla]) if vanilla in right and vanilla != network else ""
        lines.append(f"| {network} | {total} | {average:.1f} | {low:.1f} to {high:.1f} | {spread} | {each} | {apart} |")
    return "\n".join(lines)


def scale_table(runs: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the top-1 at each size, a row for each network: the mean over its seeds."""
    top1: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for found in runs:
        for scale in found["scales"]:
            top1[found["network"]][scale["size"]].append(scale["top1"])
    sizes = list(next(iter(top1.values())))
    lines = [f"| network | seeds | {' | '.join(f'{size} pixels' for size in sizes)} |", "|---" * (2 + len(sizes)) + "|"]
    for network, found in top1.items():
        cells = (f"{mean(found[size]):.1f}" for size in sizes)
        lines.append(f"| {network} | {len(found[sizes[0]])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(args: argparse.Namespace) -> bytes:
    """Return a PNG of accuracy against multiply-adds: the networks of ``rendered``, and those trained for longer."""
    results = []
    for study in (rendered, ablations):
        runs = recorded(args.json / f"{study.__name__}.json")
        for plan in study(args):
            if plan.name in runs and "OCTAVE.STAGES" not in plan.keys:
                cfg = load_cfg(ROOT / plan.cfg, [str(part) for item in plan.keys.items() for part in item])
                size = cfg.DATA.TRAIN_CROP
                cost = count(build_model(cfg), (1, 3, cfg.DATA.NUM_FRAMES, size, size)).as_dict()
                name = f"{cfg.TRAIN.STEPS} steps"
                results.append(Result(name, cfg.OCTAVE.ALPHA, cost["gflops"], runs[plan.name]["top1"]))
    return draw_comparison(results)


def difference(seeds: Mapping[int, str], vanilla: Mapping[int, str]) -> str:
    """Return by how many points a network is better than vanilla on the same videos and seeds, and the 95 % interval.

    The interval is that of a sample of the videos.
    """
    shared = sorted(seeds.keys() & vanilla.keys())
    if not shared or len({len(answers) for answers in (*seeds.values(), *vanilla.values())}) > 1:
        return ""
    points = [
        100 * mean(int(seeds[seed][video]) - int(vanilla[seed][video]) for seed in shared)
        for video in range(len(seeds[shared[0]]))
    ]
    return f"{mean(points):+.1f} ± {1.96 * stdev(points) / math.sqrt(len(points)):.1f}"


STUDIES = {
    study.__name__: study for study in (rendered, ablations, others, scales, faster, inflation, weizmann, fights)
}


def main() -> None:
    """Do the runs that are not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("studies", nargs="+", choices=tuple(STUDIES), metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--table", action="store_true", help="print the tables, without a run")
    parser.add_argument(
        "--figure", type=Path, help="write accuracy against multiply-adds on the rendered set here, .png"
    )
    parser.add_argument("--rendered", type=Path, default=Path("output/hard/data"), help="the hard rendered set")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the real videos")
    parser.add_argument("--output", type=Path, default=Path("output/evidence"), help="folder of the runs")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/evidence", help="folder of the records")
    args = parser.parse_args()
    for name in ("rendered", "data", "output", "json"):
        setattr(args, name, getattr(args, name).resolve())
    args.lists = {"DATA.TRAIN": args.rendered / "train", "DATA.VAL": args.rendered / "val"}
    args.json.mkdir(parents=True, exist_ok=True)
    for study in args.studies:
        path = args.json / f"{study}.json"
        runs = recorded(path)
        for plan in () if args.table else STUDIES[study](args):
            if plan.name not in runs:
                runs[plan.name] = run(plan, args.output / study / plan.name)
                path.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
        if not runs:
            print(f"{study}: no run is recorded")
            continue
        beside = recorded(args.json / "rendered.json")
        shown = [*(beside[name] for name in BESIDE.get(study, ())), *runs.values()]
        print(f"{study}:\n\n{scale_table(shown) if study == 'scales' else table(shown)}\n")
    if args.figure:
        args.figure.write_bytes(draw(args))


if __name__ == "__main__":
    main()
