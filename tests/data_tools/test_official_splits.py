"""Make lists from the official files of UCF-101, HMDB-51 and Something-Something v2, in files of the same layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_tools.lists.make_lists import main
from octvideo.cli import run
from octvideo.data import read_index


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n3 YoYo\r\n")
    for split in (1, 2):
        train = [f"HandstandPushups/v_HandStandPushups_g0{split}_c01.avi 2", f"YoYo/v_YoYo_g0{split}_c02.avi 3"]
        test = [f"ApplyEyeMakeup/v_ApplyEyeMakeup_g0{split}_c01.avi"]
        (folder / f"trainlist0{split}.txt").write_text("\r\n".join([*train, ""]))
        (folder / f"testlist0{split}.txt").write_text("\r\n".join([*test, ""]))
    return folder


@pytest.fixture
def hmdb(tmp_path: Path) -> Path:
    folder = tmp_path / "testTrainMulti_7030_splits"
    folder.mkdir()
    rows = {
        "brush_hair": "#20_brush_hair_u_0.avi 1 \nA!(b)_brush_hair_1.avi 2 \nc_brush_hair_2.avi 0 \n",
        "wave": "d_wave_0.avi 1 \n",
    }
    for label, text in rows.items():
        (folder / f"{label}_test_split1.txt").write_text(text)
        (folder / f"{label}_test_split2.txt").write_text(text.replace(" 1 ", " 2 "))
    return folder


@pytest.fixture
def something(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    names = {"Putting something, something and something on the table": "1", "Holding something": "0"}
    (folder / "something-something-v2-labels.json").write_text(json.dumps(names))

    def entries(kind: str, *rows: tuple[str, str]) -> None:
        found = [{"id": name, "label": "x", "template": template, "placeholders": []} for name, template in rows]
        (folder / f"something-something-v2-{kind}.json").write_text(json.dumps(found))

    entries(
        "train",
        ("78687", "Holding [something]"),
        ("2", "Putting [something], [something] and [something] on the table"),
    )
    entries("validation", ("3", "Holding [something]"))
    (folder / "something-something-v2-test.json").write_text(json.dumps([{"id": "4"}]))
    return folder


def make(folder: Path, names: list[str], *more: str) -> dict[str, list[tuple[str, str]]]:
    """Run the command; return the lists as {split: [(path, class name)]}."""
    videos, output = folder.parent / "v", folder.parent / "out"
    for name in names:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    assert main(["--annotations", str(folder), "--videos", str(videos), "--output", str(output), *more]) == 0
    found = {}
    for file in sorted(output.glob("t*.csv")) + sorted(output.glob("val.csv")):
        index = read_index(file, root=str(videos), classes_file=str(output / "classes.txt"))
        paths = [Path(index.path(number)).relative_to(videos).as_posix() for number in range(len(index))]
        labels = [int(index.label(number)) for number in range(len(index))]
        found[file.stem] = [(path, index.classes[label] if label >= 0 else "") for path, label in zip(paths, labels)]
    return found


@pytest.mark.parametrize("split", [1, 2])
def test_ucf_split(ucf: Path, split: int, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"HandstandPushups/v_HandStandPushups_g0{split}_c01.mp4", f"YoYo/v_YoYo_g0{split}_c02.avi"]
    test = f"ApplyEyeMakeup/v_ApplyEyeMakeup_g0{split}_c01.avi"
    lists = make(ucf, [*names, test, "YoYo/v_YoYo_g09_c09.avi"], "--split", str(split))
    assert lists == {
        "train": [(names[0], "HandstandPushups"), (names[1], "YoYo")],
        "val": [(test, "ApplyEyeMakeup")],
    }
    out = capsys.readouterr().out
    assert "train: 2 rows, 2 found" in out and "1 not in this split" in out
    assert f"DATA.VAL {ucf.parent / 'out' / 'val.csv'}" in out and "DATA.CLASSES" in out
    assert (ucf.parent / "out" / "not_listed.txt").read_text() == "YoYo/v_YoYo_g09_c09.avi\n"


def test_hmdb_split(hmdb: Path) -> None:
    names = ["brush_hair/#20_brush_hair_u_0.avi", "brush_hair/A!(b)_brush_hair_1.avi", "brush_hair/c_brush_hair_2.avi"]
    lists = make(hmdb, names)
    assert lists == {"train": [(names[0], "brush_hair")], "val": [(names[1], "brush_hair")]}
    missing = (hmdb.parent / "out" / "missing_train.csv").read_text()
    assert missing == "video,label,reason\nd_wave_0,wave,no file\n"
    assert (hmdb.parent / "out" / "classes.txt").read_text() == "brush_hair\nwave\n"


@pytest.mark.parametrize("answers", [False, True])
def test_something_split(something: Path, answers: bool) -> None:
    if answers:
        (something / "something-something-v2-test-answers.csv").write_text("4;Holding something\n")
    lists = make(something, [f"20bn-something-something-v2/{name}.webm" for name in ("78687", "2", "3", "4")])
    folder, long = "20bn-something-something-v2", "Putting something, something and something on the table"
    assert lists == {
        "test": [(f"{folder}/4.webm", "Holding something" if answers else "")],
        "train": [(f"{folder}/78687.webm", "Holding something"), (f"{folder}/2.webm", long)],
        "val": [(f"{folder}/3.webm", "Holding something")],
    }
    assert (something.parent / "out" / "classes.txt").read_text() == f"Holding something\n{long}\n"


@pytest.mark.parametrize(
    ("file", "text", "more", "message"),
    [
        ("classInd.txt", "ApplyEyeMakeup\n", [], "classInd.txt:1: 'ApplyEyeMakeup' is not a number and a class"),
        ("trainlist01.txt", "YoYoo/v.avi 3\n", [], "trainlist01.txt:1: unknown class 'YoYoo'; did you mean"),
        ("trainlist01.txt", "YoYo/v.avi 3\n", ["--split", "3"], "trainlist03.txt: no such file"),
        ("trainlist01.txt", "YoYo/v.avi 3\n", [], "none of the 2 videos of the official files is in this folder"),
    ],
)
def test_errors_are_one_line(
    ucf: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, more: list[str], message: str
) -> None:
    (ucf / file).write_text(text)
    arguments = ["--annotations", str(ucf), "--videos", str(ucf), "--output", str(ucf.parent / "out"), *more]
    assert run(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_malformed_official_files(
    hmdb: Path, something: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hmdb / "wave_test_split1.txt").write_text("d_wave_0.avi 3\n")
    (something / "something-something-v2-train.json").write_text('[{"id": "1", "template": "Holdin [something]"}]')
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (hmdb, "wave_test_split1.txt:1: 'd_wave_0.avi 3' is not a video and 0, 1 or 2"),
        (something, "train.json: entry 1: unknown class 'Holdin something'; did you mean"),
        (tmp_path / "empty", "no official files in this folder"),
    ):
        assert (
            run(main, ["--annotations", str(folder), "--videos", str(tmp_path), "--output", str(tmp_path / "o")]) == 2
        )
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error
