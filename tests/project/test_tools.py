"""The quickstart and the Weizmann script from end to end, in small."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch

from octvideo.data.seen import hash_video

ROOT = Path(__file__).resolve().parents[2]
PERSONS = ("denis", "ido", "moshe")  # one of each fold
SMALL = "TRAIN.STEPS 2 TRAIN.BATCH_SIZE 2 SOLVER.WARMUP_STEPS 1 TEST.NUM_CLIPS 2 TEST.NUM_CROPS 1 NUM_WORKERS 0".split()


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a script of the checkout."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_quickstart_runs(tmp_path: Path) -> None:
    counts = ("--train-per-class", "1", "--val-per-class", "1")
    done = call("tools/quickstart.py", "--output", tmp_path, *counts, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.split("== done")[1]
    metrics = json.loads((tmp_path / "oct_i3d" / "metrics.json").read_text())
    assert metrics["num_videos"] == 10
    assert f"2-view top-1 on 10 clips of unseen figures: {metrics['top1']:.1f} %" in summary
    assert ("warning" in summary) == (metrics["top1"] < 80)
    annotated = tmp_path / "oct_i3d" / "annotated.mp4"
    assert str(annotated) in summary
    with av.open(str(annotated)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40


def test_quickstart_names_the_failed_step(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    done = call("tools/quickstart.py", "--output", tmp_path)
    assert done.returncode == 1
    assert "the step 'making videos' failed" in done.stderr and "== training" not in done.stdout


def test_weizmann_holds_out_three_persons(data: Path, tmp_path: Path) -> None:
    done = call("tools/weizmann.py", "--data", data, "--output", tmp_path, "--folds", "1", "--", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    persons = {}
    for split, count in (("train", 60), ("val", 30)):
        with (tmp_path / "fold1" / f"{split}.csv").open() as file:
            paths = [Path(row[0]) for row in csv.reader(file)]
        assert len(paths) == count
        persons[split] = {path.name.split("_")[0] for path in paths}
    assert persons["val"] == {"ido", "ira", "lena"}
    assert persons["train"] == {"daria", "denis", "eli", "lyova", "moshe", "shahar"}
    summary = json.loads((tmp_path / "weizmann.json").read_text())
    metrics = json.loads((tmp_path / "fold1" / "metrics.json").read_text())
    assert (summary["views"], summary["num_videos"], summary["top1"]) == (2, 30, pytest.approx(metrics["top1"]))
    assert f"top-1 over 30 clips: {metrics['top1']:.1f} %" in done.stdout


@pytest.fixture
def few(data: Path, tmp_path: Path) -> Path:
    """A folder of data as ``tools/ship.py`` reads it: two actions of three persons, two cameras, two other clips."""
    names = [f"weizmann/{action}/{person}_{action}.avi" for action in ("bend", "wave2") for person in PERSONS]
    names += ["fight_surveillance/fight/fi001.mp4", "fight_surveillance/noFight/nofi001.mp4"]
    names += ["clips/actions/mmaction2_part_0.mp4", "clips/asl_gestures/help.mkv", "clips/formats/decord_corrupted.mp4"]
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).symlink_to((data / name).resolve())
    (tmp_path / "data" / "labels").mkdir()
    rows = "path,label,group,frames\nfight_surveillance/fight/fi001.mp4,fight,a,9\n"
    rows += "fight_surveillance/noFight/nofi001.mp4,noFight,b,9\n"
    (tmp_path / "data" / "labels" / "fight_surveillance.csv").write_text(rows)
    return tmp_path / "data"


@pytest.mark.full
def test_ship_writes_networks_card_and_results(few: Path, tmp_path: Path) -> None:
    output, results = tmp_path / "assets", tmp_path / "ship.json"
    arguments = ["--data", few, "--work", tmp_path / "work", "--output", output, "--results", results]
    classes = ["MODEL.NUM_CLASSES", "0"]  # as in the folders
    done = call("tools/ship.py", *arguments, "--seeds", "3", "--networks", "oct_i3d", "--", *SMALL, *classes)
    assert done.returncode == 0, done.stdout + done.stderr
    lists = {}
    for name in ("fold0", "fold1", "fold2", "all"):
        lines = (tmp_path / "work" / "oct_i3d" / "seed3" / name / "train.csv").read_text().splitlines()
        lists[name] = {Path(line.rsplit(",", 1)[0]).name for line in lines}
    assert lists["fold1"] == {"denis_bend.avi", "denis_wave2.avi", "moshe_bend.avi", "moshe_wave2.avi"}
    assert len(lists["all"]) == 6
    ship = output / "oct_i3d_weizmann.pt"
    content = torch.load(ship, weights_only=True)
    assert set(content) == {"model", "config", "plan", "classes", "confidence", "seen", "version"}
    assert hash_video(str(few / "weizmann" / "bend" / "ido_bend.avi")) in content["seen"]["videos"]
    assert content["classes"] == ["bend", "wave2", "other"]
    assert content["confidence"]["known"] == 6 and 0 < content["confidence"]["threshold"] < 1
    assert f"threshold {content['confidence']['threshold']}" in (output / "MODEL_CARD.md").read_text()
    assert json.loads(results.read_text())["networks"]["oct_i3d"]["confidence"] == content["confidence"]
    assert {value.dtype for value in content["model"].values() if value.is_floating_point()} == {torch.float16}
    assert str(tmp_path) not in content["config"], "a shipped file must not name folders of the machine it was made on"
    done = call("demo/predict.py", few / "weizmann" / "bend" / "ido_bend.avi", "--checkpoint", ship, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert {row["label"] for row in record["predictions"]} == {"bend", "wave2"} and record["sure"] in (True, False)
    again = call("tools/ship.py", *arguments, "--seeds", "3", "--networks", "oct_i3d", "--", *SMALL, *classes)
    assert again.returncode == 0 and "testing" not in again.stderr


def test_ship_without_videos_is_one_line(tmp_path: Path) -> None:
    done = call("tools/ship.py", "--data", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr


def test_weizmann_without_videos_is_one_line(tmp_path: Path) -> None:
    done = call("tools/weizmann.py", "--data", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr


def test_weizmann_names_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "weizmann" / "bend").mkdir(parents=True)
    (tmp_path / "weizmann" / "bend" / "ido_bend.avi").touch()
    (tmp_path / "file").touch()
    done = call("tools/weizmann.py", "--data", tmp_path, "--output", tmp_path / "file" / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and f"--output {tmp_path / 'file' / 'out'}: cannot be written" in done.stderr
