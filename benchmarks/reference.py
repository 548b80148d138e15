#!/usr/bin/env python
"""Record what a checkout computes, and compare another one with it bit by bit.

``PYTHONPATH=OLD python benchmarks/reference.py write FOLDER`` records, ``PYTHONPATH=NEW ... check FOLDER`` compares.
Both run on one machine: a convolution's last bits depend on the kind of CPU. FOLDER gets ``reference.json`` (digests),
videos, and a checkpoint from which ``check`` resumes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn

from octvideo import build_model, load_cfg
from octvideo.config import config_folder
from octvideo.data import build_test_loader, build_train_loader

CROP = 64  # size of the networks' clips, pixels
CLASSES = ("down", "left", "right", "up")
TINY = """
MODEL: {ARCH: i3d, BLOCKS: [1, 1, 1, 1], WIDTH: 8, NUM_CLASSES: 4, STEM_KERNEL: [1, 5, 5], CONV_AS_2D: True}
OCTAVE: {ALPHA: 0.25}
DATA: {TRAIN: train.csv, VAL: val.csv, CLASSES: classes.txt, NUM_FRAMES: 4, SAMPLING_RATE: 2, TRAIN_CROP: 32,
  TRAIN_SHORT_SIDE: [32, 40], TEST_CROP: 32, TEST_SHORT_SIDE: 40, COLOR_JITTER: 0.2}
TRAIN: {STEPS: 20, BATCH_SIZE: 4, CHECKPOINT_EVERY: 10, EVAL_EVERY: 0, MIXUP: 0.2, EMA: 0.9}
TEST: {NUM_CLIPS: 2, NUM_CROPS: 3}
NUM_WORKERS: 0
DEVICE: cpu
"""


def digest(tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 of the tensors' shapes, types and values."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()[:16]


def network(model: nn.Module, clips: Tensor) -> dict[str, Any]:
    """Return digests of a network's results, after all weights were changed from their initial values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    names = hashlib.sha256(repr([(k, tuple(v.shape)) for k, v in model.state_dict().items()]).encode()).hexdigest()[:16]
    torch.manual_seed(2)
    trained = model.train()(clips)
    trained.square().mean().backward()
    gradients = digest(p.grad for p in model.parameters() if p.grad is not None)
    with torch.inference_mode():
        tested = model.eval()(clips)
    return {
        "state_dict": names,
        "train_logits": digest([trained]),
        "gradients": gradients,
        "statistics": digest(model.buffers()),
        "eval_logits": digest([tested]),
    }


def networks() -> dict[str, Any]:
    """Run every shipped configuration at its alpha and at 0: outputs at a small size, costs at its full size."""
    results = {}
    for file in sorted(config_folder().glob("*/*.yaml")):
        for alpha in dict.fromkeys((load_cfg(file).OCTAVE.ALPHA, 0.0)):
            sizes = f"DATA.TRAIN_CROP {CROP} DATA.TRAIN_SHORT_SIDE [{CROP},{CROP}] DATA.TEST_CROP {CROP}".split()
            cfg = load_cfg(file, [*sizes, "OCTAVE.ALPHA", str(alpha)])
            torch.manual_seed(0)
            model = build_model(cfg)
            clips = torch.randn(2, 3, cfg.DATA.NUM_FRAMES, CROP, CROP, generator=torch.Generator().manual_seed(3))
            name = f"{file.parent.name}/{file.stem} alpha {alpha:g}"
            results[name] = {**network(model, clips), "cost": octvideo("complexity", file, alpha)}
            print(name, results[name]["eval_logits"], file=sys.stderr)
    return results


def octvideo(command: str, file: Path, alpha: float) -> Any:
    """Return what an ``octvideo`` command prints."""
    arguments = [sys.executable, "-m", "octvideo", command, "--cfg", str(file), "--json", "OCTAVE.ALPHA", str(alpha)]
    return json.loads(subprocess.run(arguments, check=True, capture_output=True, encoding="utf-8").stdout)


def write_videos(folder: Path) -> None:
    """Write lossless videos of a moving bar, and their lists: decoded frames do not depend on the encoder."""
    rng = np.random.default_rng(0)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for split, count in (("train", 4), ("val", 2)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            for label, name in enumerate(CLASSES):
                for number in range(count):
                    path = f"{split}_{name}_{number}.mkv"
                    csv.writer(file, delimiter=" ").writerow([path, label])
                    frames = rng.integers(0, 60, (30, 64, 80, 3), dtype=np.uint8)
                    for time in range(30):
                        start = 2 * time if name in ("down", "right") else 60 - 2 * time
                        place = (slice(start, start + 12), slice(None))
                        frames[(time, *(place if name in ("down", "up") else place[::-1]))] = 230
                    encode(frames, folder / path)


def encode(frames: np.ndarray, path: Path) -> None:
    """Write FFV1 in Matroska."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def data(cfg: Any) -> dict[str, Any]:
    """Return digests of six batches and of all views."""
    batches = islice(build_train_loader(cfg), 6)
    views = build_test_loader(cfg)
    return {
        "batches": [digest([batch.frames, batch.labels, batch.indices]) for batch in batches],
        "views": [digest([view.frames]) for view in views if view.frames is not None],
    }


def training(folder: Path, record: bool) -> dict[str, Any]:
    """Return digests of a training of 20 steps, and of one resumed from the recorded checkpoint of step 10."""
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("whole", "resumed"):
            output = Path(scratch) / name / "checkpoints"
            if name == "resumed":
                output.mkdir(parents=True)
                shutil.copy(folder / "step_00000010.pt", output)
            run = [sys.executable, "-m", "octvideo", "run-net", "--cfg", "tiny.yaml", "OUTPUT_DIR", str(output.parent)]
            subprocess.run(run, check=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
            payload = torch.load(output / "last.pt", weights_only=True)
            with (output.parent / "predictions.csv").open(encoding="utf-8") as file:
                rows = [row[1:] for row in csv.reader(file)]
            results[name] = {"weights": digest(payload["model"].values()), "predictions": rows}
            if name == "whole" and record:
                shutil.copy(output / "step_00000010.pt", folder)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("write", "check"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    folder, record = arguments.folder, arguments.action == "write"
    torch.set_num_threads(1)
    if record:
        folder.mkdir(parents=True)
        write_videos(folder)
        (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    results = {"machine": [torch.__version__, torch.backends.cpu.get_cpu_capability()], "networks": networks()}
    before = os.getcwd()
    os.chdir(folder)
    results["data"] = data(load_cfg("tiny.yaml"))
    os.chdir(before)
    results["training"] = training(folder.resolve(), record)
    file = folder / "reference.json"
    if record:
        file.write_text(json.dumps(results, indent=1), encoding="utf-8")
        return 0
    expected = json.loads(file.read_text(encoding="utf-8"))
    differences = [*differing(expected, json.loads(json.dumps(results)))]
    print("\n".join(differences) or "nothing differs")
    return 1 if differences else 0


def differing(expected: Any, found: Any, place: str = "") -> Iterable[str]:
    """The places where two results differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*expected, *found]):
            yield from differing(expected.get(key), found.get(key), f"{place}/{key}")
    elif expected != found:
        yield f"{place}: {str(expected)[:80]} became {str(found)[:80]}"


if __name__ == "__main__":
    sys.exit(main())
