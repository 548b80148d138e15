"""One road from nothing to an answer, each step a command: make data, train, be killed, go on, test, predict."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import av

ROOT = Path(__file__).resolve().parents[2]
KEYS = (
    "TRAIN.STEPS 16 TRAIN.BATCH_SIZE 2 TRAIN.CHECKPOINT_EVERY 4 SOLVER.WARMUP_STEPS 1 "
    "TEST.NUM_CLIPS 2 TEST.NUM_CROPS 3 TEST.MAX_VIEWS 6 NUM_WORKERS 1 DEVICE cpu"
).split()


def command(*arguments: str | Path) -> list[str]:
    """A script of the checkout."""
    return [sys.executable, *map(str, arguments)]


def done(*arguments: str | Path) -> str:
    """What the script says; it must end well."""
    process = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_commands_work_end_to_end(tmp_path: Path) -> None:
    counts = ["--train-per-class", "1", "--val-per-class", "1"]
    done("data_tools/make_sample_dataset.py", "--output", tmp_path / "data", *counts)
    paths = ["DATA.TRAIN", tmp_path / "data" / "train", "DATA.VAL", tmp_path / "data" / "val"]

    def run_net(name: str) -> list[str | Path]:
        return ["tools/run_net.py", "--cfg", "quickstart/oct_i3d.yaml", *paths, "OUTPUT_DIR", tmp_path / name, *KEYS]

    done(*run_net("whole"))
    killed = subprocess.Popen(command(*run_net("killed")), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    checkpoints = tmp_path / "killed" / "checkpoints"
    end = time.monotonic() + 240
    while not (checkpoints / "step_00000008.pt").exists() and time.monotonic() < end and killed.poll() is None:
        time.sleep(0.05)
    killed.kill()
    _, errors = killed.communicate(timeout=240)
    assert killed.returncode == -9 and not (checkpoints / "last.pt").exists(), errors.decode()
    done(*run_net("killed"))

    whole, resumed = ((tmp_path / name / "metrics.json").read_text() for name in ("whole", "killed"))
    assert whole == resumed and json.loads(whole)["num_videos"] == 10
    scores = [(tmp_path / name / "predictions.csv").read_text() for name in ("whole", "killed")]
    assert scores[0] == scores[1]

    clip = next((tmp_path / "data" / "val").rglob("*.mp4"))
    named = tmp_path / "named.mp4"
    predict = ["demo/predict.py", clip, "--checkpoint", checkpoints / "last.pt", "--output", named, "--json"]
    answer = json.loads(done(*predict))
    assert answer["video"] == str(clip) and answer["predictions"][0]["label"] in json.loads(whole)["per_class"]
    with av.open(str(named)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40
