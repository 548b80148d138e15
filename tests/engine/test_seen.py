"""Checkpoints say what they were trained on, and runs warn of tests on the same videos."""

from __future__ import annotations

import torch
from runs import call

from octvideo.data.index import read_index
from octvideo.data.seen import seen_in


def _seen(path):
    return torch.load(path, weights_only=True)["seen"]


def test_checkpoints_record_their_videos(small_run, video_folder, tmp_path, capsys):
    expected = seen_in(read_index(video_folder / "train"))
    assert call(small_run("out", "TRAIN.EVAL_EVERY", "6")) == 0
    folder = tmp_path / "out" / "checkpoints"
    assert all(_seen(folder / name) == expected for name in ("best.pt", "last.pt", "step_00000012.pt"))
    # Weights keep what those before them saw, also after a resumption.
    down = video_folder / "train" / "down"
    names = sorted(path.name for path in down.iterdir())
    (tmp_path / "few.csv").write_text("".join(f'"{down / name}",{n % 2}\n' for n, name in enumerate(names)))
    few = ("DATA.TRAIN", str(tmp_path / "few.csv"), "TEST.ENABLE", "False", "TRAIN.CHECKPOINT", str(folder / "last.pt"))
    assert call(small_run("next", *few, "TRAIN.STEPS", "3")) == 0
    assert call(small_run("next", *few, "TRAIN.STEPS", "6")) == 0
    assert _seen(tmp_path / "next" / "checkpoints" / "step_00000006.pt") == expected


def test_test_on_trained_videos_warns(small_run, video_folder, tmp_path, capsys):
    train = str(video_folder / "train")
    assert call(small_run("out", "DATA.VAL", train, "TRAIN.STEPS", "3")) == 0
    warning = "warning: 8 of 8 videos of DATA.VAL were trained on"
    assert capsys.readouterr().err.count(warning) == 1
    checkpoint = ("TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "out" / "checkpoints" / "last.pt"))
    assert call(small_run("again", *checkpoint, "DATA.TEST", train)) == 0
    assert capsys.readouterr().err.count(warning.replace("VAL", "TEST")) == 1
