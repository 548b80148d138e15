#!/usr/bin/env python
"""Estimate how long jobs over many videos take on 1, 8 and 64 nodes, from what they cost here.

``measure`` runs each command on copies of a video and notes CPU seconds, which do not depend on what else the machine
does: of the start, and of each video. ``estimate`` does the arithmetic::

    work     videos x CPU seconds / (nodes x cores) x unevenness of the parts
    read     videos x bytes / what the storage delivers to all nodes together
    hours    the longer of the two, plus the start of the tasks, plus the merge on one core

The list is cut by a hash, so the largest of T parts has about 1 + sqrt(2 ln T x T / videos) times the mean.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = 200_000  # of the record that is merged
VIEWS = 10
SMALL = f"predict, the small network, {VIEWS} views"
RESULT = ROOT / "benchmarks" / "results" / "jobs.json"


def commands(videos: Path, output: Path) -> dict[str, list[str]]:
    """Return the commands by name, each with one process."""
    tools, one = ROOT / "data_tools", ["--workers", "1"]
    check = ["-m", "octvideo", "check-videos", str(videos), "--report", str(output / "r.jsonl"), *one]
    prepare = [str(tools / "kinetics_prepare.py"), "--input", str(videos), "--output", str(output / "p"), *one]
    shards = [str(tools / "make_shards.py"), "--list", str(videos), "--output", str(output / "s"), *one]
    predict = ["-m", "octvideo", "predict", str(videos), "--output-jsonl", str(output / "o.jsonl"), *one]
    return {
        "check-videos": check,
        "kinetics_prepare": [*prepare, "--short-side", "256"],
        "make_shards": shards,
        SMALL: [*predict, "--backend", "openvino", "--views", str(VIEWS)],
    }


def cpu_seconds(words: list[str]) -> float:
    """Run a command with one thread; return the CPU seconds of all its processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    before = os.times()
    subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(video: Path, copies: int) -> dict[str, object]:
    """Return what the start and each video cost; two sizes of the list tell them apart."""
    found = {}
    for name in commands(video, video):
        more = copies * (10 if name == "make_shards" else 1)  # it takes no more than a copy
        seconds = []
        for count in (1, 1 + more):
            with tempfile.TemporaryDirectory() as folder:
                videos = Path(folder) / "videos" / "class"
                videos.mkdir(parents=True)
                for number in range(count):
                    shutil.copy(video, videos / f"{number:06d}{video.suffix}")
                seconds.append(cpu_seconds(commands(videos.parent, Path(folder))[name]))
        per_video = (seconds[1] - seconds[0]) / more
        found[name] = {"start_s": round(seconds[0] - per_video, 2), "video_core_ms": round(1000 * per_video, 1)}
        print(name, found[name], file=sys.stderr)
    return {
        "video": {"name": video.name, "mbytes": round(video.stat().st_size / 1e6, 2)},
        "videos": copies,
        "machine": {"cpu": _cpu(), "cores": os.cpu_count()},
        "jobs": found,
        "merge_core_s_per_million": round(merge_seconds(), 1),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def merge_seconds() -> float:
    """Return the CPU seconds to merge a million lines of ``predict`` from eight parts."""
    sys.path.insert(0, str(ROOT))
    from octvideo.parts import Part
    from octvideo.records import Record

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "o.jsonl"
        names = [f"/archive/class/video {number:09d}.mp4" for number in range(ROWS)]
        predictions = [{"label": f"a class with number {number}", "score": 0.123456} for number in range(5)]
        for number in range(1, 9):
            part = Part(number, 8, 8)
            with Record(file, "video", part) as record:
                for name in filter(part.has, names):
                    record.add({"video": name, "model": "m", "backend": "openvino", "predictions": predictions})
        start = time.process_time()
        with Record(file, "video") as record:
            record.require(names)
            record.write(names)
            record.discard()
        return (time.process_time() - start) * 1e6 / ROWS


def with_large_networks(jobs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Add predictions of I3D-50: the job of the small network, and the clips that ``benchmarks/cpu.py`` timed."""
    clips = json.loads((RESULT.parent / "cpu.json").read_text(encoding="utf-8"))["networks"]["I3D-50"]
    for name, alpha in (("I3D-50", "0"), ("Oct-I3D-50, alpha 0.5", "0.5")):
        more = VIEWS * clips[f"{alpha}, openvino f32"]["ms"]
        small = jobs[SMALL]
        jobs[f"predict, {name}, {VIEWS} views"] = {**small, "video_core_ms": small["video_core_ms"] + more}
    return jobs


def estimate(
    job: dict[str, float], merge: float, *, nodes: int, cores: int, videos: int, mbytes: float, storage: float
) -> dict[str, float]:
    """Return the parts of the time in hours, and what limits it.

    Args:
        job: of ``measure``.
        merge: CPU seconds for a million videos.
        nodes, cores: of the cluster, and of each node; a task has one core.
        videos: of the list.
        mbytes: of a video.
        storage: GB/s for all nodes together.
    """
    tasks = nodes * cores
    uneven = 1 + math.sqrt(2 * math.log(tasks) * tasks / videos)
    work = videos * job["video_core_ms"] / 1000 / tasks * uneven
    read = videos * mbytes / 1000 / storage
    rest = job["start_s"] + videos / 1e6 * merge
    return {
        "nodes": nodes,
        "hours": (max(work, read) + rest) / 3600,
        "work_hours": work / 3600,
        "read_hours": read / 3600,
        "start_and_merge_hours": rest / 3600,
        "read_gbytes_per_s": videos * mbytes / 1000 / (max(work, read) + rest),
    }


def main() -> None:
    """Measure, or print the estimates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="VIDEO", help="measure with copies of this video")
    parser.add_argument("--copies", type=int, default=24)
    parser.add_argument("--result", type=Path, default=RESULT, help="what measure writes and estimates read")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--cores", type=int, default=32, help="of a node (%(default)s)")
    parser.add_argument("--videos", type=int, default=650_000, help="of the list (%(default)s, Kinetics-700)")
    parser.add_argument("--storage", type=float, default=5.0, help="GB/s for all nodes together (%(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.measure:
        args.result.write_text(json.dumps(measure(args.measure, args.copies), indent=1) + "\n", encoding="utf-8")
        return
    measured = json.loads(args.result.read_text(encoding="utf-8"))
    fixed = dict(cores=args.cores, videos=args.videos, mbytes=measured["video"]["mbytes"], storage=args.storage)
    merge = measured["merge_core_s_per_million"]
    found = {
        name: [estimate(job, merge, nodes=nodes, **fixed) for nodes in args.nodes]
        for name, job in with_large_networks(measured["jobs"]).items()
    }
    if args.json:
        print(json.dumps({"assumptions": fixed, "results": found}, indent=1))
        return
    for name, rows in found.items():
        print(f"\n{name}")
        for key in rows[0]:
            print(f"  {key:24s}" + "".join(f"{row[key]:12.3g}" for row in rows))


if __name__ == "__main__":
    main()
