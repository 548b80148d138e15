#!/usr/bin/env python
"""Train, calibrate and measure what ships: an octave network for the ten Weizmann actions, its vanilla twin, the card.

Networks of three folds are tested on persons, and on videos of other things, that they have not seen. The confidence
threshold of what ships comes from these tests. An interrupted run resumes where it was; --only runs a part of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bootstrap import ROOT
from ship_card import write_card
from weizmann import FOLDS, train

from data_tools.other_clips import Job, make, plan
from octvideo.cli import run as run_command
from octvideo.config import CfgNode, get_defaults
from octvideo.data.lists import format_row, write_lines
from octvideo.data.media import is_video
from octvideo.data.seen import hash_video
from octvideo.errors import UserError
from octvideo.files import write_text
from octvideo.inference.confidence import OTHER, calibrate
from octvideo.progress import Progress

NETWORKS = ("oct_i3d", "i3d")
UNTRAINED = ("clips/actions", "clips/asl_gestures", "clips/formats")  # nothing of these is trained on

Record = dict[str, Any]  # a tested clip: video, kind, label ("" if none), answer, confidence


class Data(NamedTuple):
    """The videos, each with its source: a person or a camera."""

    classes: list[str]
    known: list[tuple[Path, str]]
    others: list[tuple[Path, str]]
    untrained: list[Path]

    def fold_of(self, source: str) -> int | None:
        """Return the fold that tests a source; None if none does."""
        persons = {person: fold for fold, names in enumerate(FOLDS) for person in names}
        cameras = [camera for camera, _ in Counter(camera for _, camera in self.others).most_common()]
        return persons.get(source, cameras.index(source) % len(FOLDS) if source in cameras else None)


def find_data(folder: Path) -> Data:
    """Return the videos below the folder.

    Raises:
        UserError: some are missing.
    """
    known = sorted((path, path.name.split("_")[0]) for path in (folder / "weizmann").glob("*/*.avi"))
    labels = folder / "labels" / "fight_surveillance.csv"
    if not known or not labels.is_file():
        missing = labels if known else "weizmann/ACTION/PERSON_ACTION.avi"
        raise UserError(f"--data {folder}: no {missing} below this folder")
    with labels.open(newline="", encoding="utf-8") as file:
        others = [(folder / row["path"], row["group"] or "unknown camera") for row in csv.DictReader(file)]
    untrained = sorted(path for name in UNTRAINED for path in (folder / name).iterdir() if is_video(path.name))
    return Data(sorted({path.parent.name for path, _ in known}), known, others, untrained)


def make_others(data: Data, folder: Path) -> dict[Job, Path]:
    """Make the clips of other things, and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = plan(data.others, data.known)
    files = {}
    with Progress("clips of other things", len(jobs), "clips") as progress:
        for job in jobs:
            files[job] = make(job, folder)
            progress.update()
    return files


def write_lists(data: Data, fold: int | None, folder: Path) -> None:
    """Write `path label` lines: ``train.csv`` has what the fold does not test, ``val.csv`` what it does.

    Without a fold both have everything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, testing in (("train.csv", False), ("val.csv", True)):
        paths = [path for path, person in data.known if fold is None or (data.fold_of(person) == fold) == testing]
        rows = [format_row(str(path.resolve()), data.classes.index(path.parent.name)) for path in paths]
        write_lines(folder / name, rows)
    write_lines(folder / "classes.txt", data.classes)


def train_on(data: Data, files: dict[Job, Path], fold: int | None, cfg: str, folder: Path, keys: list[str]) -> Path:
    """Train a network on what the fold does not test, give it the class ``other``, and return its checkpoint."""
    from octvideo.engine.checkpoints import save_checkpoint
    from octvideo.inference.other_class import add_other

    path = folder / "with_other.pt"
    if not path.exists():
        write_lists(data, fold, folder)
        train(cfg, folder, folder, ["TEST.ENABLE", "False", *keys])
        known = [video for video, person in data.known if fold is None or data.fold_of(person) != fold]
        other = [file for job, file in files.items() if fold is None or data.fold_of(job.source) != fold]
        save_checkpoint(add_other(folder / "checkpoints" / "last.pt", known, other), path)
    return path


def tested(checkpoint: Path, clips: Sequence[tuple[Path, str, str]], file: Path) -> list[Record]:
    """Return what a network answers on clips: path, kind and label of each. Kept in ``file``."""
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    from octvideo.inference import Predictor

    predictor = Predictor(checkpoint, device="cpu")
    records = []
    with Progress(f"testing {checkpoint.parent.name}", len(clips), "clips") as progress:
        for path, kind, label in clips:
            try:
                answer, confidence = predictor.predict(path, 1)[0]
            except UserError:  # clips/formats has broken files
                continue
            finally:
                progress.update()
            name = "/".join(path.parts[-3:])
            records.append(
                {"video": name, "kind": kind, "label": label, "answer": answer, "confidence": round(confidence, 6)}
            )
    write_text(file, json.dumps(records, indent=1))
    return records


def run_fold(data: Data, files: dict[Job, Path], fold: int, cfg: str, folder: Path, keys: list[str]) -> list[Record]:
    """Train a fold, and test it on the persons and cameras that it has not seen."""
    clips = [(path, "weizmann", path.parent.name) for path, person in data.known if data.fold_of(person) == fold]
    clips += [(path, "surveillance", "") for path, camera in data.others if data.fold_of(camera) == fold]
    clips += [(path, path.parent.name, "") for path in data.untrained]
    start = time.perf_counter()
    checkpoint = train_on(data, files, fold, cfg, folder, keys)
    records = tested(checkpoint, clips, folder / "tested.json")
    print(f"== {folder}: {time.perf_counter() - start:.0f} s", flush=True)
    return records


def confidences(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    """Return the confidences to calibrate on: of Weizmann's clips and of the cameras'; the other kinds only test."""
    known, other = ([r["confidence"] for r in records if r["kind"] == kind] for kind in ("weizmann", "surveillance"))
    return known, other


def evaluate(folds: dict[int, list[Record]]) -> dict[str, Any]:
    """Return what the folds' tests show: each fold at the threshold that the other folds give, by kind of clip."""
    counts: dict[str, Counter[str]] = {}
    thresholds = {}
    for fold, records in folds.items():
        rest = [record for other, part in folds.items() if other != fold for record in part]
        thresholds[fold] = calibrate(*confidences(rest or records))["threshold"]
        for record in records:
            count = counts.setdefault(record["kind"], Counter())
            sure, correct = record["confidence"] >= thresholds[fold], record["answer"] == record["label"]
            count.update(clips=1, sure=sure, correct=correct, sure_correct=sure and correct)
    return {"thresholds": thresholds, "kinds": {kind: dict(count) for kind, count in counts.items()}}


def strip(checkpoint: Path, confidence: dict[str, Any], data: Data, target: Path) -> None:
    """Write the network alone, for inference: half-precision weights, configuration, class names, threshold.

    It records the videos that it has seen; clips of other things were made from some of them.
    """
    import torch

    from octvideo.engine.checkpoints import save_checkpoint
    from octvideo.models.checkpoints import read_checkpoint

    payload = read_checkpoint(checkpoint)
    state = {key: v.to(torch.float16) if v.is_floating_point() else v for key, v in payload["model"].items()}
    cfg = CfgNode.load_cfg(payload["config"])
    defaults = get_defaults()
    cfg.OUTPUT_DIR = defaults.OUTPUT_DIR  # the folders of the machine that trained it are nobody's business
    for key in ("TRAIN", "VAL", "TEST", "ROOT", "CLASSES"):
        cfg.DATA[key] = defaults.DATA[key]
    seen = {"videos": sorted({hash_video(str(path)) for path, _ in [*data.known, *data.others]}), "lists": []}
    content = {"model": state, "config": cfg.dump(), "plan": payload["plan"], "classes": payload["classes"]}
    save_checkpoint({**content, "confidence": confidence, "seen": seen}, target)


def parts(networks: Sequence[str], seeds: Sequence[int], folds: Sequence[int]) -> Iterator[tuple[str, int, int | None]]:
    """Yield network, seed and fold of each training in the order of their use; None trains on everything."""
    for network in networks:
        yield from ((network, seed, fold) for seed in seeds for fold in folds)
        yield network, seeds[0], None


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, test it, and write networks, card and results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", required=True, type=Path, help="the folder that has weizmann/ and fight_surveillance/"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "ship", help="folder for all trainings")
    parser.add_argument("--output", type=Path, default=ROOT / "octvideo" / "assets", help="folder for what ships")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "ship.json", help="file for the results"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the folds; the first one ships (0 1)")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(len(FOLDS)), default=[0, 1, 2])
    parser.add_argument("--only", metavar="PART", help="train and test one part, such as oct_i3d/seed0/fold2, and end")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    args = parser.parse_args(argv)
    data = find_data(args.data)
    work = args.work.resolve()
    files = make_others(data, work / OTHER)
    results: dict[str, Any] = {"seeds": args.seeds, "folds": args.folds, "networks": {}}
    for network in args.networks:
        folds: dict[int, dict[int, list[Record]]] = {}
        for _, seed, fold in parts([network], args.seeds, args.folds):
            name = f"{network}/seed{seed}/{'all' if fold is None else f'fold{fold}'}"
            if args.only not in (None, name):
                continue
            cfg, folder, seeded = (
                f"configs/weizmann/{network}.yaml",
                work / name,
                ["TRAIN.EVAL_EVERY", "0", *args.overrides, "SEED", str(seed)],
            )
            if fold is not None:
                folds.setdefault(seed, {})[fold] = run_fold(data, files, fold, cfg, folder, seeded)
                continue
            checkpoint = train_on(data, files, None, cfg, folder, seeded)
            untrained = [(path, path.parent.name, "") for path in data.untrained]
            shipped = tested(checkpoint, untrained, folder / "tested.json")
            if args.only is None:
                results["networks"][network] = summary = summarize(folds, shipped)
                strip(checkpoint, summary["confidence"], data, args.output / f"{network}_weizmann.pt")
    if args.only is None:
        write_text(args.results, json.dumps(results, indent=1) + "\n")
        write_card(results, args.output / "MODEL_CARD.md")
        print(f"networks and card in {args.output}, results in {args.results}")
    return 0


def summarize(folds: dict[int, dict[int, list[Record]]], shipped: list[Record]) -> dict[str, Any]:
    """Return the figures of a network: of the folds by seed, and of what ships."""
    pooled = [record for of_seed in folds.values() for records in of_seed.values() for record in records]
    confidence = calibrate(*confidences(pooled))
    confidence["measured"] = "persons and cameras that the networks of the folds have not seen"
    sure = [record for record in shipped if record["confidence"] >= confidence["threshold"]]
    return {
        "confidence": confidence,
        "seeds": {seed: evaluate(of_seed) for seed, of_seed in folds.items()},
        "shipped": {"clips": len(shipped), "sure": [f"{record['video']}: {record['answer']}" for record in sure]},
    }


if __name__ == "__main__":
    sys.exit(run_command(main))
