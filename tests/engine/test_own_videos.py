"""``octvideo train``: from a user's folder to a network, and the first mistakes of a new user."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from runs import metrics

from octvideo.cli import run
from octvideo.cli.train import main
from octvideo.config import load_cfg
from octvideo.data.index import read_index
from octvideo.data.seen import seen_in

TINY = [
    *("MODEL.WIDTH", "8", "MODEL.BLOCKS", "[1,1,1,1]", "DATA.NUM_FRAMES", "4", "DATA.TRAIN_CROP", "32"),
    *("DATA.TRAIN_SHORT_SIDE", "[32,40]", "DATA.TEST_CROP", "32", "DATA.TEST_SHORT_SIDE", "40", "NUM_WORKERS", "0"),
    *("DEVICE", "cpu", "TRAIN.STEPS", "4", "TEST.NUM_CLIPS", "2", "DATA.ITEM_TIMEOUT", "0"),
]  # fmt: skip


@pytest.fixture
def folder(video_folder, tmp_path, monkeypatch) -> Path:
    """Two classes of four videos below the working directory, to change."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(video_folder / "train", "clips"))


def _train(*arguments: str | Path) -> int:
    torch.set_num_threads(1)
    return run(main, [*map(str, arguments), *TINY])


def _data(output: str) -> dict:
    return json.loads(Path(output, "data.json").read_text(encoding="utf-8"))


def test_folder_becomes_a_network(folder, capsys):
    assert _train(folder, "--from", "scratch") == 0
    output = Path("output/clips")
    out, err = capsys.readouterr()
    assert "report in output/clips/report.html" in err
    assert f"top-1 {metrics(output)['top1']:.1f} % of 2 validation videos (95 % interval" in out
    assert "octvideo predict VIDEO --checkpoint output/clips/checkpoints/best.pt" in out
    assert (output / "report.html").is_file()
    data = _data("output/clips")
    assert (data["classes"], data["train"], data["val"]) == ({"down": 4, "right": 4}, 6, 2)
    best = torch.load(output / "checkpoints" / "best.pt", weights_only=True)
    assert best["classes"] == ["down", "right"] and len(best["seen"]["videos"]) == 6
    with open(output / "predictions.csv", newline="") as file:
        lowest = min(float(row["score1"]) for row in csv.DictReader(file))
    assert best["confidence"]["known"] == 2 and lowest - 1e-4 <= best["confidence"]["threshold"] <= lowest
    # The same command has nothing left to do; the run_net command repeats it; another request is refused.
    before = metrics(output)
    assert _train(folder, "--from", "scratch") == 0
    assert "nothing is left to train" in capsys.readouterr().err and metrics(output) == before
    assert load_cfg(output / "config.yaml").TRAIN.STEPS == 4
    assert _train(folder, "--from", "scratch", "--val-share", "0.5") == 2
    assert "its training has --val-share 0.2, this command 0.5" in capsys.readouterr().err


def test_groups_stay_together(folder, capsys):
    for path in sorted(folder.rglob("*.mp4")):
        path.rename(path.with_name(f"{'ann' if '0' in path.name or '1' in path.name else 'bob'}-{path.name}"))
    assert _train(folder, "--from", "scratch") == 0
    assert "file names seem to have 2 groups (ann, bob, ...)" in capsys.readouterr().err
    assert (
        _train(folder, "--from", "scratch", "--output", "grouped", "--group-by", "^[a-z]+", "--val-share", "0.5") == 0
    )
    assert "seem to have" not in capsys.readouterr().err
    groups = _data("grouped")["groups"]
    assert sorted(groups["train"] + groups["val"]) == ["ann", "bob"] and len(groups["val"]) == 1
    assert all(groups["val"][0] in line for line in Path("grouped/val.csv").read_text().splitlines())


def test_broken_videos_are_left_out(folder, capsys):
    broken = folder / "down" / "video 0.mp4"
    broken.write_bytes(broken.read_bytes()[:3000])
    assert _train(folder, "--from", "scratch") == 0
    assert f"{broken.absolute()}: left out, cannot be decoded" in capsys.readouterr().err
    data = _data("output/clips")
    assert [entry["video"] for entry in data["broken"]] == [str(broken.absolute())]
    assert data["train"] + data["val"] == 7


def test_validation_videos_can_be_given(folder, video_folder, capsys):
    shutil.copytree(video_folder / "val", "held")
    assert _train(folder, "--from", "scratch", "--val", "held") == 0
    data = _data("output/clips")
    assert (data["train"], data["val"], data["videos"]) == (8, 8, 16)
    shutil.move("held/right", "held/rihgt")
    assert _train(folder, "--val", "held", "--output", "other") == 2
    assert "held: the class 'rihgt' is not one that is trained; did you mean \"right\"?" in capsys.readouterr().err
    assert not Path("other").exists()


def test_weights_that_saw_validation_videos_are_refused(folder, capsys):
    assert _train(folder, "--from", "scratch") == 0
    weights = "output/clips/checkpoints/last.pt"
    assert _train(folder, "--from", weights, "--output", "next") == 0  # the same split: it has not seen them
    assert f"starting from {weights}" in capsys.readouterr().err
    seen = torch.load(weights, weights_only=True)
    torch.save({**seen, "seen": seen_in(read_index(folder))}, "all.pt")
    assert _train(folder, "--from", "all.pt", "--output", "refused") == 2
    assert "--from all.pt: it was trained on 2 of the 2 validation videos" in capsys.readouterr().err
    assert _train(folder, "--from", "missing.pt", "--output", "refused") == 2
    assert "missing.pt" in capsys.readouterr().err


def test_best_weights_at_hand_are_the_default(folder, capsys):
    keys = [value for value in TINY if value not in ("MODEL.WIDTH", "8", "MODEL.BLOCKS", "[1,1,1,1]")]
    assert run(main, [str(folder), "--output", "fine", *keys]) == 0
    assert "starting from oct_i3d_small (weizmann)" in capsys.readouterr().err
    assert load_cfg("fine/config.yaml").SOLVER.BASE_LR < 5e-4


def test_teacher_needs_no_labels(folder, video_folder, capsys):
    assert _train(folder, "--from", "scratch", "--val", video_folder / "val") == 0
    teacher = "output/clips/checkpoints/last.pt"
    Path("loose").mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.mp4"))):
        shutil.copy(path, f"loose/{number}.mp4")
    assert _train("loose", "--from", "scratch") == 2
    assert "its 8 videos are not in class folders" in capsys.readouterr().err
    assert _train("loose", "--from", "scratch", "--teacher", teacher) == 2
    assert "pass videos with labels to validate on with --val" in capsys.readouterr().err
    assert _train("loose", "--from", "scratch", "--teacher", teacher, "--val", video_folder / "val") == 0
    assert f"learning from TRAIN.TEACHER {teacher}: 100% of the loss" in capsys.readouterr().err
    assert metrics(Path("output/loose"))["num_videos"] == 8
    assert torch.load("output/loose/checkpoints/best.pt", weights_only=True)["classes"] == ["down", "right"]


def _swap(folder: Path) -> None:
    (folder / "rigth").mkdir()
    (folder / "right" / "video 0.mp4").rename(folder / "rigth" / "video 0.mp4")


def _keep_one(folder: Path) -> None:
    for number in (1, 2, 3):
        (folder / "down" / f"video {number}.mp4").unlink()


def _break_all(folder: Path) -> None:
    for path in folder.rglob("*.mp4"):
        path.write_bytes(b"no video")


def _break_one_class(folder: Path) -> None:
    _break_all(folder / "down")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swap, "the class 'rigth' has one clip: 2 are needed, one to train on and one to validate on; did you mean"),
        (_keep_one, "the class 'down' has one clip"),
        (_break_all, "none of its 8 videos can be decoded"),
        (_break_one_class, "no video of class 'down' can be decoded"),
        (_empty, "no videos or images in class folders"),
        (lambda folder: shutil.copytree(folder / "down", folder / "Down"), "differ only in capitals"),
    ],
)
def test_first_mistakes_end_in_one_line(folder, capsys, change, message):
    change(folder)
    assert _train(folder, "--from", "scratch") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and message in error[0]
    assert not Path("output/clips/train.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "oct_i3d_smal"], "oct_i3d_small"),
        (["--val", "missing"], "missing: no such list file or folder"),
        (["--group-by", "person"], "it finds nothing in the name of"),
        (["--val-share", "1.5"], "above 0 and below 1"),
        (["--minutes", "0"], "above 0"),
        (["TEST.ENABLE", "False"], "TEST.ENABLE: octvideo train sets this key itself"),
        (["TRAIN.STEP", "3"], "did you mean TRAIN.STEPS"),
    ],
)
def test_wrong_arguments_end_in_one_line(folder, capsys, arguments, message):
    try:
        code = _train(folder, *arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2 and message in capsys.readouterr().err
    assert not Path("output").exists()


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_weizmann_is_learnt(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    arguments = [str(data / "weizmann"), "--group-by", "^([a-z]+)_", "--from", "scratch"]
    assert run(main, arguments) == 0
    assert metrics(Path("output/weizmann"))["top1"] >= 85
    assert os.path.getsize("output/weizmann/report.html") > 5000
