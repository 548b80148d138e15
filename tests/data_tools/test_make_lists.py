"""Make lists from the CSV files of Kinetics and a folder of videos; every row and every video is accounted for."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from processes import ROOT, environment

from data_tools.lists.make_lists import choose_classes, main
from octvideo.cli import run
from octvideo.config import load_cfg
from octvideo.data import build_index, build_test_loader, read_index
from octvideo.data.annotations import clip_name, read_annotations
from octvideo.data.index import read_classes
from octvideo.errors import UserError

HEADER = "label,youtube_id,time_start,time_end,split"
ROWS = (
    "abseiling,aaa,1,11,train",
    "riding a bike,-bb,2,12,train",
    "massaging person's head,c_c,1989,1999,train",
    "zumba,ddd,4,14,val",
    "passing American football (in game),eee,5,15,val",
)


def annotations(folder, *rows, name="k.csv"):
    file = folder / name
    file.write_text("\n".join((HEADER, *rows)) + "\n")
    return file


def videos(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def make(tmp_path, rows, names, *more, classes="kinetics400_classes.txt"):
    """Run the command; return the lists as {split: [(path, class name)]}."""
    files = ["--annotations", str(annotations(tmp_path, *rows)), "--videos", str(videos(tmp_path / "v", *names))]
    assert main([*files, "--output", str(tmp_path / "out"), "--classes", classes, *more]) == 0
    lists = {}
    for split in ("train", "val", "test"):
        if (tmp_path / "out" / f"{split}.csv").is_file():
            index = read_index(tmp_path / "out" / f"{split}.csv", root=str(tmp_path / "v"), classes_file=classes)
            paths = [Path(index.path(i)).relative_to(tmp_path / "v").as_posix() for i in range(len(index))]
            lists[split] = [(path, index.classes[index.label(i)]) for i, path in enumerate(paths)]
    return lists


LAYOUTS = {
    "flat": ("{stem}.mp4", "{id}_{start:06d}_{end:06d}"),
    "folders of classes": ("{label}/{stem}.mp4", "{id}_{start:06d}_{end:06d}"),
    "underscores, by split": ("{split}/{under}/{stem}.mkv", "{id}_{start:06d}_{end:06d}"),
    "names that are ids": ("{stem}.webm", "{id}"),
    "ids in folders of classes": ("{under}/{stem}.MP4", "{id}"),
    "short times": ("{split}_256/{stem}.mp4", "{id}_{start}_{end}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_layouts(tmp_path, layout, capsys):
    pattern, stem = LAYOUTS[layout]
    expected: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
    for segment in read_annotations(annotations(tmp_path, *ROWS)):
        start, end = int(segment.start), int(segment.end)
        name = stem.format(id=segment.youtube_id, start=start, end=end)
        under = segment.label.replace(" ", "_")
        path = pattern.format(stem=name, label=segment.label, under=under, split=segment.split)
        expected[segment.split].append((path, segment.label))
    names = [path for rows in expected.values() for path, _ in rows]
    assert make(tmp_path, ROWS, names) == expected
    out = capsys.readouterr().out
    assert "train: 3 rows, 3 found" in out and "val: 2 rows, 2 found" in out and "missing" not in out
    assert "5 in the folder, 0 not in the CSV" in out
    assert (tmp_path / "out" / "not_listed.txt").read_text() == ""
    assert read_classes(tmp_path / "out" / "classes.txt") == read_classes("kinetics400_classes.txt")
    root = f"DATA.ROOT {tmp_path}/v"
    assert f"{root} DATA.TRAIN {tmp_path}/out/train.csv DATA.VAL {tmp_path}/out/val.csv DATA.CLASSES" in out


def test_missing_rows_and_unknown_videos_are_listed(tmp_path, capsys):
    names = ["aaa_000001_000011.mp4", "-bb_000099_000109.mp4", "x/holiday, 2019.mp4", "notes.txt", "b/aaa_1_11.mp4"]
    assert make(tmp_path, ROWS, names) == {"train": [("aaa_000001_000011.mp4", "abseiling")]}
    out = capsys.readouterr().out
    assert "train: 3 rows, 1 found" in out and "2 missing (no file 2)" in out
    assert "val: 2 rows, 0 found (no list is written); 2 missing" in out
    assert "4 in the folder, 2 not in the CSV, 1 further copies" in out
    listed = read_index(tmp_path / "out" / "not_listed.txt", root="/")
    assert sorted(listed.path(i) for i in range(3)) == [
        "/-bb_000099_000109.mp4", "/b/aaa_1_11.mp4", "/x/holiday, 2019.mp4",
    ]  # fmt: skip
    missing = read_annotations(tmp_path / "out" / "missing_train.csv")
    assert [(m.youtube_id, m.label) for m in missing] == [("-bb", "riding a bike"), ("c_c", "massaging person's head")]
    # with all videos there, the list of missing rows is removed
    assert len(make(tmp_path, ROWS, [f"{name}.mp4" for name in ("-bb", "c_c", "ddd", "eee")])["train"]) == 3
    assert not (tmp_path / "out" / "missing_train.csv").exists()


def test_id_with_several_segments(tmp_path, capsys):
    rows = (
        "cracking neck,xyz,83,93,val",
        "cracking knuckles,xyz,7,17,val",
        "zumba,uvw,1,11,train",
        "zumba,uvw,20,30,train",
        "zumba,rst,1,11,train",
        "zumba,rst,5,15,val",
    )
    classes = "kinetics600_classes.txt"
    lists = make(tmp_path, rows, ["cracking_neck/xyz.mp4", "uvw.mp4", "val/zumba/rst.mp4"], classes=classes)
    assert lists == {"val": [("cracking_neck/xyz.mp4", "cracking neck"), ("val/zumba/rst.mp4", "zumba")]}
    out = capsys.readouterr().out
    assert "3 missing (several segments of this id 3)" in out and "3 ids are in 6 rows" in out
    assert "1 missing (several segments of this id 1)" in out
    # a name with times needs no folder
    assert len(make(tmp_path, rows, ["uvw_000020_000030.mp4"], classes=classes)["train"]) == 1


def test_copies_and_wrong_folders(tmp_path, capsys):
    rows = ("abseiling,aaa,1,11,train", "abseiling,aaa,1,11,train", "zumba,aaa,1,11,val", "zumba,ddd,4,14,val")
    names = ["zumba/aaa_000001_000011.mp4", "abseiling/aaa_000001_000011.mp4", "abseiling/ddd_000004_000014.mp4"]
    lists = make(tmp_path, rows, [*names, "abseiling/aaa_000001_000011.avi"])
    assert lists["train"] == [("abseiling/aaa_000001_000011.avi", "abseiling")], "the first by name"
    assert lists["val"] == [(names[0], "zumba"), (names[2], "zumba")], "the class is the one in the CSV"
    out = capsys.readouterr().out
    assert "1 rows repeat another one" in out and "1 clips are in rows of different labels or splits" in out
    assert "1 videos are in the folder of another class or split, e.g. abseiling/ddd" in out
    assert "0 not in the CSV, 1 further copies" in out


def test_clean_list_selects_videos(tmp_path, capsys, monkeypatch):
    names = ["x, y/aaa.mp4", "x, y/-bb.mp4", "ddd.mp4"]
    clean = tmp_path / "clean.txt"
    clean.write_text(f'"x, y/aaa.mp4"\n{tmp_path}/v/ddd.mp4\n')
    lists = make(tmp_path, ROWS, names, "--clean-list", str(clean))
    assert lists == {"train": [(names[0], "abseiling")], "val": [(names[2], "zumba")]}
    assert "not in the clean list 1" in capsys.readouterr().out
    with (tmp_path / "out" / "missing_train.csv").open(newline="") as file:
        reasons = {row["youtube_id"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {"-bb": "not in the clean list", "c_c": "no file"}
    monkeypatch.chdir(tmp_path)
    clean.write_text("v/ddd.mp4\n")
    assert make(tmp_path, ROWS, names, "--clean-list", "clean.txt")["val"] == [("ddd.mp4", "zumba")]
    clean.write_text("elsewhere.mp4\n")
    with pytest.raises(UserError, match="clean.txt: none of the 3 videos found"):
        make(tmp_path, ROWS, names, "--clean-list", "clean.txt")


def test_test_files_without_labels(tmp_path, data):
    file = data / "labels" / "kinetics-400_test_sample.csv"
    names = [clip_name(segment) for segment in read_annotations(file)]
    folder = videos(tmp_path / "v", *names[:30])
    assert main(["--annotations", str(file), "--videos", str(folder), "--output", str(tmp_path)]) == 0
    index = read_index(tmp_path / "test.csv", root=str(folder))
    assert {index.path(i) for i in range(30)} == {str(folder / name) for name in names[:30]}
    assert set(index.labels) == {-1} and not (tmp_path / "classes.txt").exists()
    assert len(read_annotations(tmp_path / "missing_test.csv")) == 10


@pytest.mark.parametrize("name", ["400", "600"])
def test_official_labels_choose_their_classes(data, name):
    labels = {segment.label for segment in read_annotations(data / "labels" / f"kinetics-{name}_val.csv")}
    assert choose_classes(labels, "") == (data / "labels" / f"kinetics{name}_classes.txt").read_text().splitlines()


def test_errors_name_the_input(tmp_path, capsys):
    file, folder = annotations(tmp_path, "zumba,a,1,11,val", "Abseiling,b,1,11,val"), videos(tmp_path / "v", "q.mp4")

    def error(*more):
        words = ["--annotations", str(file), "--videos", str(folder), "--output", str(tmp_path / "out"), *more]
        assert run(main, words) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "label 'Abseiling' is not in kinetics400_classes.txt (did you mean 'abseiling'? 1 of 2" in error()
    assert "not in kinetics600_classes.txt" in error("--classes", "kinetics600_classes.txt")
    annotations(tmp_path, "zumba,a,1,11,val")
    assert "all labels are in kinetics400_classes.txt and in kinetics600_classes.txt: choose one" in error()
    message = error("--classes", "kinetics400_classes.txt")
    assert "none of the 1 videos of the annotations is in this folder" in message and "a_000001_000011.mp4" in message
    assert "no such folder; check --videos" in error(
        "--videos", str(tmp_path / "absent"), "--classes", "kinetics400_classes.txt"
    )
    with pytest.raises(SystemExit):
        error("--videos", "")  # which is not the working directory
    assert "absent.csv: no such annotation file" in error("--annotations", str(tmp_path / "absent.csv"))


def test_official_csv_gives_frames(tmp_path, data, video_folder):
    """Run the script and read the real videos of its list."""
    file = data / "labels" / "kinetics-400_val.csv"
    segments = read_annotations(file)[::2500]
    clips = sorted(video_folder.glob("val/*/*.mp4"))
    for clip, segment in zip(clips, segments):
        target = tmp_path / "videos" / segment.label / clip_name(segment)
        target.parent.mkdir(parents=True)
        shutil.copy(clip, target)
    words = ["--annotations", str(file), "--videos", "videos", "--output", "lists"]
    script = str(ROOT / "data_tools" / "make_lists.py")
    done = subprocess.run(
        [sys.executable, script, *words], env=environment(), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "val: 19906 rows, 8 found -> lists/val.csv; 19898 missing (no file 19898)" in done.stdout
    keys = done.stdout.splitlines()[-1].removeprefix("train with: ").split()
    assert keys[::2] == ["DATA.ROOT", "DATA.VAL", "DATA.CLASSES"]
    keys[3], keys[5] = str(tmp_path / keys[3]), str(tmp_path / keys[5])
    sizes = ["DATA.NUM_FRAMES", "4", "DATA.TEST_CROP", "32", "DATA.TEST_SHORT_SIDE", "32", "TEST.NUM_CLIPS", "1"]
    cfg = load_cfg(None, [*keys, *sizes, "NUM_WORKERS", "0"])
    items = list(build_test_loader(cfg))
    classes = build_index(cfg, "test").classes
    assert all(item.failed is None for item in items)
    assert Counter(classes[item.label] for item in items) == Counter(segment.label for segment in segments)
