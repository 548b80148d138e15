"""Class names belong to the weights: renamed, added, removed and reordered classes wherever weights meet data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import call

from octvideo.config import load_cfg
from octvideo.engine.datasets import read_run_data
from octvideo.errors import UserError
from octvideo.inference import Predictor

NAMES = ["ape", "bee", "cat"]
TREES = {  # the names of the class folders, and which class of the training each shows
    "same": dict(zip(NAMES, NAMES)),
    "rename": {"ape": "ape", "zebu": "bee", "cat": "cat"},
    "add": {"ant": "ape", "ape": "ape", "bee": "bee", "cat": "cat"},
    "remove": {"ape": "ape", "cat": "cat"},
    "reorder": dict(zip(NAMES, NAMES)),  # by DATA.CLASSES
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for name in NAMES:
        for number in range(2):
            make_video(folder / "same" / name / f"{number}.mp4", rng.integers(0, 256, (8, 40, 48, 3), dtype=np.uint8))
    for tree, classes in TREES.items():
        for name, shown in classes.items():
            if tree != "same":
                (folder / tree).mkdir(exist_ok=True)
                (folder / tree / name).symlink_to(folder / "same" / shown)
    (folder / "reorder.txt").write_text("cat\nape\nbee\n")
    return folder


@pytest.fixture
def tiny(small_run, videos):
    """Arguments of a run of one step on a tree, without a number of classes."""

    def arguments(output, tree="same", *overrides):
        more = ["DATA.CLASSES", str(videos / "reorder.txt")] if tree == "reorder" else []
        data = [str(videos / tree) if tree in TREES else tree] * 2
        keys = f"MODEL.NUM_CLASSES 0 TRAIN.STEPS 1 TRAIN.BATCH_SIZE 2 DATA.TRAIN {data[0]} DATA.VAL {data[1]}"
        quick = "TEST.NUM_CLIPS 1 TEST.NUM_CROPS 1 TEST.ENABLE False"
        return small_run(output, *keys.split(), *quick.split(), *more, *overrides)

    return arguments


@pytest.fixture
def trained(tiny, tmp_path):
    assert call(tiny("first")) == 0
    return tmp_path / "first" / "checkpoints"


def rows(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return {row.pop("path").split("/", 3)[-1][-9:]: row for row in csv.DictReader(file)}


def loaded(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("change", ["rename", "add", "remove", "reorder"])
def test_resume_keeps_the_classes(tiny, trained, tmp_path, capsys, change):
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    code = call(tiny("first", change, "TRAIN.STEPS", "2"))
    if change != "reorder":
        error = capsys.readouterr().err.splitlines()[-1]
        found = {"rename": "'bee' missing, 'zebu' new", "add": "'ant' new", "remove": "'bee' missing"}[change]
        assert code == 2 and "its checkpoints have other classes than DATA.TRAIN" in error
        assert found in error and "TRAIN.RESUME False" in error
        assert {file.name: file.read_bytes() for file in trained.iterdir()} == before
        return
    assert code == 0 and "labels are put in the order of the classes" in capsys.readouterr().err
    assert call(tiny("second", "same", "TRAIN.STEPS", "2")) == 0
    turned, whole = (loaded(tmp_path / name / "checkpoints" / "last.pt") for name in ("first", "second"))
    assert turned["classes"] == whole["classes"] == NAMES
    assert all(torch.equal(turned["model"][key], value) for key, value in whole["model"].items())


@pytest.mark.parametrize("change", ["same", "rename", "add", "remove", "reorder"])
def test_fine_tuning_keeps_rows_of_the_same_classes(tiny, trained, tmp_path, capsys, change):
    still = ["TRAIN.CHECKPOINT", str(trained / "last.pt"), "SOLVER.BASE_LR", "0"]
    assert call(tiny("tuned", change, *still)) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("starting from"))
    key = "blocks.6.proj.weight"
    first, tuned = loaded(trained / "last.pt"), loaded(tmp_path / "tuned" / "checkpoints" / "last.pt")
    kept = {
        name: torch.equal(tuned["model"][key][number], first["model"][key][NAMES.index(name)])
        for number, name in enumerate(tuned["classes"])
        if name in NAMES
    }
    assert tuned["classes"] == (["cat", "ape", "bee"] if change == "reorder" else sorted(TREES[change]))
    if change in ("same", "reorder"):
        assert all(kept.values()) and "the head is kept" in line
    else:
        assert not any(kept.values()) and "the head is new: the classes differ" in line


@pytest.mark.parametrize("change", ["rename", "add", "remove", "reorder"])
def test_test_names_videos_right(tiny, trained, tmp_path, capsys, change):
    test = ["TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "TEST.CHECKPOINT", str(trained / "last.pt")]
    code = call(tiny("test", change, *test))
    if change in ("rename", "add"):
        name = {"rename": "zebu", "add": "ant"}[change]
        assert (
            code == 2
            and f"has the class '{name}', which {trained / 'last.pt'} does not know" in capsys.readouterr().err
        )
        assert not (tmp_path / "test").exists()
        return
    assert code == 0
    assert call(tiny("whole", "same", *test)) == 0
    found, whole = rows(tmp_path / "test"), rows(tmp_path / "whole")
    assert found == {path: whole[path] for path in found} and len(found) == 2 * len(TREES[change])
    assert all(row["label"] == path.split("/")[0] for path, row in found.items())


@pytest.mark.parametrize("change", ["rename", "add", "remove", "reorder"])
def test_evaluation_names_videos_right(tiny, videos, tmp_path, change):
    listed = tmp_path / "val.csv"  # without the first class, and not in order
    listed.write_text("".join(f"{videos / 'same' / name / '0.mp4'},{name}\n" for name in ("cat", "bee")))
    val = listed if change == "reorder" else videos / change
    cfg = load_cfg(tiny("x")[1], [*tiny("x")[2:], "DATA.VAL", str(val), "TRAIN.EVAL_EVERY", "1", "TEST.ENABLE", "True"])
    if change in ("rename", "add"):
        with pytest.raises(UserError, match=r"DATA.VAL .* has the class '(zebu|ant)', which DATA.TRAIN"):
            read_run_data(cfg, tmp_path)
        return
    data = read_run_data(cfg, tmp_path)
    for index in (data.val, data.test):
        assert index.classes == NAMES
        assert [index.classes[label] for label in index.labels] == [
            Path(index.path(number)).parent.name for number in range(len(index))
        ]


def test_numbers_in_a_list_are_names(tiny, videos, tmp_path, capsys):
    """Folders 0 to 10, in the order 0, 1, 10, 2 of an older checkpoint, tested with a list of numbers."""
    numbers = [str(number) for number in range(11)]
    for number in numbers:
        (tmp_path / "n").mkdir(exist_ok=True)
        (tmp_path / "n" / number).symlink_to(videos / "same" / NAMES[int(number) % 3])
    assert call(tiny("out", str(tmp_path / "n"))) == 0
    last = tmp_path / "out" / "checkpoints" / "last.pt"
    payload = loaded(last)
    assert payload["classes"] == numbers
    torch.save({**payload, "classes": sorted(numbers)}, tmp_path / "old.pt")
    (tmp_path / "list.txt").write_text("".join(f"n/{number}/0.mp4 {number}\n" for number in (0, 1, 2, 3, 10)))
    test = ["TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "DATA.VAL", str(tmp_path / "list.txt"), "TEST.CHECKPOINT"]
    for checkpoint in (last, tmp_path / "old.pt"):
        assert call(tiny("test", "same", *test, str(checkpoint))) == 0
        with (tmp_path / "test" / "predictions.csv").open(newline="") as file:
            assert all(Path(row["path"]).parent.name == row["label"] for row in csv.DictReader(file))
    (tmp_path / "list.txt").write_text("n/1/0.mp4 1\nn/2/0.mp4 11\n")
    assert call(tiny("test", "same", *test, str(last))) == 2
    assert "has the label 11" in capsys.readouterr().err


def test_labels_from_one_are_refused(tiny, videos, tmp_path, capsys):
    lines = [f"{videos}/same/{name}/{k}.mp4 {number}\n" for number, name in enumerate(NAMES, 1) for k in range(2)]
    (tmp_path / "one.txt").write_text("".join(lines))
    (tmp_path / "part.txt").write_text("".join(lines[:4]))
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    one = str(tmp_path / "one.txt")
    for keys in ([], ["MODEL.NUM_CLASSES", "3"], ["DATA.CLASSES", str(tmp_path / "names.txt")]):
        assert call(tiny("out", one, *keys)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "labels seem to begin at 1" in error and "ubtract 1 from each" in error
    assert call(tiny("val", "same", "DATA.VAL", one, "TRAIN.EVAL_EVERY", "1")) == 2
    assert "labels seem to begin at 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "val").exists()
    assert call(tiny("part", str(tmp_path / "part.txt"), "DATA.CLASSES", str(tmp_path / "names.txt"))) == 0
    assert "has no video with label 0 (ape)" in capsys.readouterr().err


def test_number_of_classes_follows_the_names(tiny, videos, tmp_path, capsys):
    (tmp_path / "five.txt").write_text("\n".join([*NAMES, "dog", "eel"]))
    assert call(tiny("out", "same", "DATA.CLASSES", str(tmp_path / "five.txt"), "TEST.ENABLE", "True")) == 0
    payload = loaded(tmp_path / "out" / "checkpoints" / "last.pt")
    assert payload["classes"][3:] == ["dog", "eel"] and len(payload["model"]["blocks.6.proj.bias"]) == 5
    assert "NUM_CLASSES: 5" in payload["config"] and load_cfg(tmp_path / "out" / "config.yaml").MODEL.NUM_CLASSES == 5
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["per_class"]["eel"] is None
    for count in ("2", "4", "400"):
        assert call(tiny("other", "same", "MODEL.NUM_CLASSES", count)) == 2
        assert "has 3 classes: set MODEL.NUM_CLASSES 3, or 0 to follow" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_num_classes_with_a_list_of_numbers(tiny, videos, tmp_path, capsys):
    lines = [f"{videos}/same/{name}/0.mp4 {number}\n" for number, name in enumerate(NAMES)]
    (tmp_path / "list.txt").write_text("".join(lines))
    for asked, outputs in (("7", 7), ("0", 3)):
        assert call(tiny(f"out{asked}", str(tmp_path / "list.txt"), "MODEL.NUM_CLASSES", asked)) == 0
        payload = loaded(tmp_path / f"out{asked}" / "checkpoints" / "last.pt")
        assert payload["classes"] == list(map(str, range(outputs)))
        assert len(payload["model"]["blocks.6.proj.bias"]) == outputs
    capsys.readouterr()
    assert call(tiny("less", str(tmp_path / "list.txt"), "MODEL.NUM_CLASSES", "2")) == 2
    assert "cat/0.mp4 for one" in capsys.readouterr().err
    (tmp_path / "val.txt").write_text(lines[0] + lines[1].replace(" 1", " 5"))
    assert (
        call(tiny("val", str(tmp_path / "list.txt"), "DATA.VAL", str(tmp_path / "val.txt"), "TEST.ENABLE", "True")) == 2
    )
    assert "has the label 5" in capsys.readouterr().err and not (tmp_path / "val").exists()


def test_wider_head_of_an_older_checkpoint(tiny, trained, videos, tmp_path):
    assert call(tiny("wide", str(videos / "same"), "DATA.CLASSES", str(wide_names(tmp_path)))) == 0
    payload = loaded(tmp_path / "wide" / "checkpoints" / "last.pt")
    old = tmp_path / "old.pt"
    torch.save({**payload, "classes": NAMES}, old)
    assert Predictor(old, views=1).classes == (*NAMES, "3", "4")
    test = ["TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "TEST.CHECKPOINT", str(old)]
    assert call(tiny("test", "remove", *test)) == 0
    assert {row["label"] for row in rows(tmp_path / "test").values()} == {"ape", "cat"}
    still = ["TRAIN.CHECKPOINT", str(old), "SOLVER.BASE_LR", "0"]
    assert call(tiny("tuned", "reorder", *still)) == 0
    tuned = loaded(tmp_path / "tuned" / "checkpoints" / "last.pt")["model"]["blocks.6.proj.bias"]
    assert torch.equal(tuned, payload["model"]["blocks.6.proj.bias"][[2, 0, 1]])


def wide_names(folder):
    (folder / "wide.txt").write_text("\n".join([*NAMES, "dog", "eel"]))
    return folder / "wide.txt"


def test_unicode_forms_are_the_same_name(tiny, videos, tmp_path):
    composed, decomposed = "\u00c9lan", "E\u0301lan"
    for folder, name in (("nfc", composed), ("nfd", decomposed)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).symlink_to(videos / "same" / "ape")
        (tmp_path / folder / "bee").symlink_to(videos / "same" / "bee")
    assert call(tiny("out", str(tmp_path / "nfd"))) == 0
    assert loaded(tmp_path / "out" / "checkpoints" / "last.pt")["classes"] == ["bee", composed]
    assert call(tiny("out", str(tmp_path / "nfc"), "TRAIN.STEPS", "2", "TEST.ENABLE", "True")) == 0


def test_test_takes_class_order_of_checkpoint(small_run, video_folder, tmp_path, capsys):
    """A folder that lacks a class, and a file of names in another order: the scores stay with their names."""
    assert call(small_run("train", "TEST.ENABLE", "False", "TRAIN.STEPS", "2")) == 0
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "train" / "checkpoints" / "last.pt")]

    def rows(output, *overrides):
        assert call(small_run(output, *test, *overrides)) == 0
        with (tmp_path / output / "predictions.csv").open(newline="") as file:
            return {Path(row.pop("path")).name + row["label"]: row for row in csv.DictReader(file)}

    whole = rows("whole")
    assert {row["label"] for row in whole.values()} == {"down", "right"}
    shutil.copytree(video_folder / "val" / "right", tmp_path / "videos" / "right")
    part = rows("part", "DATA.VAL", str(tmp_path / "videos"))
    assert part == {key: row for key, row in whole.items() if row["label"] == "right"} and len(part) == 4
    (tmp_path / "names.txt").write_text("right\ndown\n")
    assert rows("turned", "DATA.CLASSES", str(tmp_path / "names.txt")) == whole
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "turned")]
    assert metrics[0]["per_class"] == metrics[1]["per_class"] and metrics[0]["top1"] == metrics[1]["top1"]

    shutil.move(tmp_path / "videos" / "right", tmp_path / "videos" / "up")
    assert call(small_run("other", *test, "DATA.VAL", str(tmp_path / "videos"))) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "has the class 'up', which" in error and "('down', 'right', ...): set DATA.CLASSES" in error
