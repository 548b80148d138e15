"""Lists and folders of videos."""

import os
import pickle

import pytest

from octvideo.config import load_cfg
from octvideo.data import VideoIndex, build_index, read_index
from octvideo.data.classes import match
from octvideo.data.index import read_classes
from octvideo.errors import UserError


def entries(index):
    return [(index.path(i), index.label(i)) for i in range(len(index))]


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4 1", "a.mp4", 1),
        ("a.mp4,1", "a.mp4", 1),
        ("a.mp4\t1", "a.mp4", 1),
        ("some folder/a b.mp4 1", "some folder/a b.mp4", 1),
        ('"with, comma.mp4",0', "with, comma.mp4", 0),
        ('"quoted name.mp4" 1', "quoted name.mp4", 1),
        ("-4wsuPCjDBc_000005_000015.mp4 0", "-4wsuPCjDBc_000005_000015.mp4", 0),
        ("a.mp4 jump", "a.mp4", 1),
        ("a.mp4,clap hands", "a.mp4", 0),
        ("a.mp4 clap hands", "a.mp4", 0),
        ("väter.mp4 1", "väter.mp4", 1),
    ],
)
def test_lines(tmp_path, line, path, label):
    (tmp_path / "list.csv").write_text(f"# comment\n\n{line}\n")
    (tmp_path / "classes.txt").write_text("clap hands\njump\n")
    index = read_index(tmp_path / "list.csv", classes_file=str(tmp_path / "classes.txt"))
    assert entries(index) == [(str(tmp_path / path), label)]
    assert index.classes == ["clap hands", "jump"]


def test_root_and_absolute_paths(tmp_path):
    (tmp_path / "list.txt").write_text("/videos/a.mp4 0\nb.mp4 2\n")
    index = read_index(tmp_path / "list.txt", root="/elsewhere")
    assert entries(index) == [("/videos/a.mp4", 0), ("/elsewhere/b.mp4", 2)]
    assert index.classes == ["0", "1", "2"]
    assert entries(pickle.loads(pickle.dumps(index))) == entries(index)


def test_encodings(tmp_path):
    (tmp_path / "list.txt").write_bytes("\ufeffa.mp4 0\n".encode())
    assert entries(read_index(tmp_path / "list.txt")) == [(str(tmp_path / "a.mp4"), 0)]
    (tmp_path / "list.txt").write_bytes("v\xe4ter.mp4 0\n".encode("latin-1"))
    with pytest.raises(UserError, match="list.txt:1: not UTF-8"):
        read_index(tmp_path / "list.txt")


def test_a_list_without_labels(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\nb c.mp4\n")
    assert [label for _, label in entries(read_index(tmp_path / "list.txt"))] == [-1, -1]


def test_folder(video_folder):
    index = read_index(video_folder / "train")
    assert index.classes == ["down", "right"] and len(index) == 8
    assert [label for _, label in entries(index)] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no videos"),
        ("a.mp4 0\nb.mp4\n", r"list.txt:2: some lines have a label"),
        ("a.mp4 0\nb.mp4 9\n", r"list.txt:2: label 9"),
        ("a.mp4 0\n,1\n", r"list.txt:2: no path"),
        ("a.mp4 jmup\n", r'list.txt:1: unknown class "jmup". Classes come from .*classes.txt'),
        ("a.mp4 -1\n", r"list.txt:1: .*neither"),
    ],
)
def test_bad_lists_name_the_line(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    (tmp_path / "classes.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match=message):
        read_index(tmp_path / "list.txt", classes_file=str(tmp_path / "classes.txt"))


def test_missing_things_are_named(tmp_path, video_folder):
    with pytest.raises(UserError, match="no such list file"):
        read_index(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="name of the list or folder is empty"):
        read_index("")
    with pytest.raises(UserError, match="this is a video or an image; pass a list"):
        read_index(next(video_folder.rglob("*.mp4")))
    with pytest.raises(UserError, match="no videos or images in class folders"):
        read_index(tmp_path)
    with pytest.raises(UserError, match="DATA.CLASSES"):
        read_classes(tmp_path / "absent.txt")
    (tmp_path / "twice.txt").write_text("a\na\n")
    with pytest.raises(UserError, match="twice"):
        read_classes(tmp_path / "twice.txt")
    (tmp_path / "other.txt").write_text("up\n")
    with pytest.raises(UserError, match="'down' is not among"):
        read_index(video_folder / "train", classes_file=str(tmp_path / "other.txt"))
    with pytest.raises(UserError, match="DATA.TRAIN is not set"):
        build_index(load_cfg(None), "train")
    with pytest.raises(UserError, match="MODEL.NUM_CLASSES is 1.*set MODEL.NUM_CLASSES 2"):
        build_index(load_cfg(None, ["DATA.TRAIN", str(video_folder / "train"), "MODEL.NUM_CLASSES", "1"]), "train")


def test_shipped_class_names():
    names = read_classes("kinetics400_classes.txt")
    assert len(names) == 400 and names == sorted(names) and names[0] == "abseiling"
    assert len(read_classes("kinetics600_classes.txt")) == 600


def test_folders_of_other_copies(tmp_path):
    for name in (
        "riding_a_bike/b.mp4",
        "riding_a_bike/deep/a.MKV",
        "abseiling/c.mp4",
        ".cache/x.mp4",
        "abseiling/notes",
    ):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.mp4").touch()
    (tmp_path / "v" / "zumba").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "v" / "zumba")
    index = read_index(tmp_path / "v", classes_file="kinetics400_classes.txt")
    assert [(os.path.relpath(path, tmp_path / "v"), index.classes[label]) for path, label in entries(index)] == [
        ("abseiling/c.mp4", "abseiling"),
        ("riding_a_bike/b.mp4", "riding a bike"),
        ("riding_a_bike/deep/a.MKV", "riding a bike"),
        ("zumba/z.mp4", "zumba"),
    ]
    assert read_index(tmp_path / "v").classes == ["abseiling", "riding_a_bike", "zumba"]
    assert read_index(tmp_path / "v").passed_over.startswith("passed over: ")


def test_names_of_another_encoding(tmp_path):
    folder = os.fsencode(tmp_path) + b"/x"
    os.mkdir(folder)
    open(folder + b"/v\xe4ter.mp4", "w").close()
    assert os.path.isfile(read_index(tmp_path).path(0))
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(UserError, match="its name is not UTF-8"):
        read_index(tmp_path)


def test_labels_follow_the_names(tmp_path):
    index = VideoIndex(["a.mp4", "b.mp4", "c.mp4"], [1, -1, 0], ["x", "z"], root="r")
    moved = index.renumbered(["w", "x", "y", "z"])
    assert entries(moved) == [("r/a.mp4", 3), ("r/b.mp4", -1), ("r/c.mp4", 1)] and moved.classes == ["w", "x", "y", "z"]
    assert list(index.labels) == [1, -1, 0]
    with pytest.raises(KeyError):
        index.renumbered(["x"])


def test_folders_of_numbers_are_in_their_order(tmp_path):
    for number in (10, 2, 1, 0):
        (tmp_path / "n" / str(number)).mkdir(parents=True)
        (tmp_path / "n" / str(number) / "a.mp4").touch()
    index = read_index(tmp_path / "n")
    assert index.classes == ["0", "1", "2", "10"]
    assert [(os.path.relpath(path, tmp_path), index.classes[label]) for path, label in entries(index)] == [
        ("n/0/a.mp4", "0"), ("n/1/a.mp4", "1"), ("n/10/a.mp4", "10"), ("n/2/a.mp4", "2"),
    ]  # fmt: skip
    (tmp_path / "classes.txt").write_text("0\n1\n10\n2\n")  # as sorted by text: a list's 2 is the class of this name
    (tmp_path / "list.txt").write_text("a.mp4 2\nb.mp4 10\n")
    assert list(read_index(tmp_path / "list.txt", classes_file=str(tmp_path / "classes.txt")).labels) == [3, 2]


@pytest.mark.parametrize(
    ("names", "known", "places"),
    [
        (["jump", "run"], ["hug", "jump", "run"], [1, 2]),
        (["0", "1", "2"], ["0", "1", "10", "2"], [0, 1, 3]),
        (["0", "1", "2"], ["hug", "jump"], [0, 1, None]),
        (["0", "1", "2"], ["1", "2", "3"], [None, 0, 1]),
        (["0", "1", "2"], ["0", "1", "10", *"23456789", "other"], [0, 1, None]),
        (["E\u0301lan", "riding_a_bike"], ["riding a bike", "\u00c9lan"], [1, 0]),
        (["Hug"], ["hug"], [None]),
    ],
)
def test_names_match_names_and_numbers(names, known, places):
    assert match(names, known) == places


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 ApplyEyeMakeup\n2 Archery\n", "such as '1 ApplyEyeMakeup', .*cut -d' ' -f2-"),
        ("0,abseiling\n1,air drumming\n", "such as '0,abseiling'"),
        ("id,name\n1,b\n0,a\n", "such as '1,b'"),
        ("\u00c9lan\nE\u0301lan\n", "duplicate class .*, in two Unicode forms"),
    ],
)
def test_class_files_with_numbers_are_refused(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / "classes.txt")


@pytest.mark.parametrize("names", [["100 m run", "400 m run"], ["gesture 1", "gesture 2"], ["walk", "walk 1"]])
def test_class_names_may_have_numbers(tmp_path, names):
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert read_classes(tmp_path / "classes.txt") == names


def test_folders_alike_to_the_eye_are_refused(tmp_path):
    for name in ("Jump", "jump"):
        (tmp_path / "v" / name).mkdir(parents=True)
        (tmp_path / "v" / name / "a.mp4").touch()
    with pytest.raises(UserError, match="'Jump' and 'jump' differ only in capitals"):
        read_index(tmp_path / "v")
    (tmp_path / "classes.txt").write_text("jump\nJump\n")
    assert list(read_index(tmp_path / "v", classes_file=str(tmp_path / "classes.txt")).labels) == [1, 0]
    (tmp_path / "classes.txt").write_text("jumps\nJump\n")
    with pytest.raises(UserError, match="folder 'jump' is not among the class names; it differs from \"Jump\" only"):
        read_index(tmp_path / "v", classes_file=str(tmp_path / "classes.txt"))
