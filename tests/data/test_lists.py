"""List files: the styles of other projects, what is written is read, and what a long list costs."""

import multiprocessing
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octvideo.data import read_index
from octvideo.data.lists import format_row, read_rows, write_lines
from octvideo.data.loaders import TrainSampler
from octvideo.errors import UserError

CLASSES = ["tennis", "playing tennis", "clap, then wave", "9", "tying knot (not on a tie)"]


def rows(tmp_path, *lines, classes=()):
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    return [(path.decode(), label) for path, label in read_rows(tmp_path / "list.txt", classes)]


def test_lists_of_pyslowfast(tmp_path):
    """`path label`, below DATA.PATH_PREFIX, which is DATA.ROOT here; also its absolute paths and other separators."""
    (tmp_path / "train.csv").write_text("abseiling/0wR5jVB-WPk.mp4 0\nzumba/ZVDR2od1gn8.mp4 399\n/abs/x.webm 7\n")
    index = read_index(tmp_path / "train.csv", root="/prefix", classes_file="kinetics400_classes.txt")
    assert [index.path(i) for i in range(3)] == [
        "/prefix/abseiling/0wR5jVB-WPk.mp4", "/prefix/zumba/ZVDR2od1gn8.mp4", "/abs/x.webm",
    ]  # fmt: skip
    assert list(index.labels) == [0, 399, 7] and index.classes[399] == "zumba"
    assert rows(tmp_path, "a.mp4,0", "b.mp4,12345") == [("a.mp4", 0), ("b.mp4", 12345)]


def test_lists_of_mmaction2(tmp_path):
    assert rows(tmp_path, "some/path/000.mp4 1", "some/path/001.mp4 2") == [
        ("some/path/000.mp4", 1), ("some/path/001.mp4", 2),
    ]  # fmt: skip
    # its test lists have paths alone
    assert rows(tmp_path, "some/path/000.mp4", "002 b.mkv") == [("some/path/000.mp4", -1), ("002 b.mkv", -1)]


@pytest.mark.parametrize("line", ["some/directory-1 163 1", "a b/dir-2 122 0", "dir-3,258,2", "a.mp4 0 1 3"])
def test_lists_of_frames_are_refused(tmp_path, line):
    with pytest.raises(
        UserError,
        match=r"list.txt:2: .*several numbers after the path.* write `folder label`, without the number of frames",
    ):
        rows(tmp_path, "# rawframes", line)


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4 playing tennis", "a.mp4", 1),
        ("a.mp4 tennis", "a.mp4", 0),
        ("no suffix tennis", "no suffix", 0),
        ("no_suffix 3", "no_suffix", 3),
        ('"take 5" 3', "take 5", 3),
        ("b, c.mp4 playing tennis", "b, c.mp4", 1),
        ('a.mp4,"clap, then wave"', "a.mp4", 2),
        ('"a ""b"".mp4","clap, then wave"', 'a "b".mp4', 2),
        ("a.mp4\ttying knot (not on a tie)", "a.mp4", 4),
        ("a.mp4 9", "a.mp4", 9),
        ("a.mp4 , 2 ", "a.mp4", 2),
        ("x.mp4 y.mp4 2", "x.mp4 y.mp4", 2),
        ("ä ö.mp4 playing tennis", "ä ö.mp4", 1),
    ],
)
def test_labels_with_blanks_and_quotes(tmp_path, line, path, label):
    assert rows(tmp_path, line, classes=[*CLASSES, *"abcdefgh"]) == [(path, label)]


def test_name_that_begins_with_a_hash_is_no_comment(tmp_path):
    (tmp_path / "#1 goal.mp4").touch()
    lines = ("#1 goal.mp4 0", "# 2.mp4 1", "# a comment", "a.mp4 1")
    assert rows(tmp_path, *lines) == [("#1 goal.mp4", 0), ("a.mp4", 1)]


def test_line_ends_of_old_macs(tmp_path):
    (tmp_path / "old.txt").write_bytes(b"a b.mp4 0\rc.mp4 1\r")
    assert list(read_rows(tmp_path / "old.txt")) == [(b"a b.mp4", 0), (b"c.mp4", 1)]


@pytest.mark.parametrize("label", [100_000, 10**30])
def test_a_number_that_is_no_label(tmp_path, label):
    with pytest.raises(UserError, match="list.txt:2: label 10+ is not below the number of classes"):
        rows(tmp_path, "a.mp4 99999", f"a.mp4 {label}")


NAMES = st.text(st.sampled_from("ab ,\"'#\t.4\rä\u2028\\/()"), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.builds("{}{}".format, NAMES, st.sampled_from(["", ".mp4", ".MKV"])), st.integers(0, 4))))
def test_what_is_written_is_read(tmp_path_factory, entries):
    file = tmp_path_factory.mktemp("lists") / "list.csv"
    for classes in ((), CLASSES):
        write_lines(file, (format_row(path, label) for path, label in entries))
        assert list(read_rows(file, classes)) == [(path.encode(), label) for path, label in entries]
    write_lines(file, (format_row(path) for path, _ in entries))
    assert list(read_rows(file)) == [(path.encode(), -1) for path, _ in entries]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    write_lines(tmp_path / "list.csv", ["a.mp4"])
    for path in ("a\nb.mp4", "v\udce4ter.mp4"):
        with pytest.raises(UserError, match="rename the file"):
            write_lines(tmp_path / "list.csv", [format_row(path)])
    with pytest.raises(UserError, match="absent/list.csv: cannot be written"):
        write_lines(tmp_path / "absent" / "list.csv", ["a.mp4"])
    assert [file.name for file in tmp_path.iterdir()] == ["list.csv"]
    assert (tmp_path / "list.csv").read_text() == "a.mp4\n"


COUNT = 200_000


@pytest.fixture(scope="module")
def long_list(tmp_path_factory):
    """200,000 rows of 41 bytes of path each; the last is of another style."""
    file = tmp_path_factory.mktemp("long") / "list.txt"
    lines = (f"train/riding_a_bike/abc{i:07d}_000010.mp4 {i % 400}\n" for i in range(COUNT - 1))
    file.write_text("".join(lines) + f"train/riding a bike/{'z' * 17}.mp4,399\n")
    return file


def test_a_long_list_is_three_arrays(long_list):
    """A million videos of such paths: 57 MB in memory and 77 MB at most while the list is read."""
    tracemalloc.start()
    try:
        index = read_index(long_list, root="/videos")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert index.path(COUNT - 2) == f"/videos/train/riding_a_bike/abc{COUNT - 2:07d}_000010.mp4"
    assert (len(index), index.label(401), index.label(COUNT - 1)) == (COUNT, 1, 399)
    arrays = [value for value in vars(index).values() if isinstance(value, np.ndarray)]
    size = sum(array.nbytes for array in arrays)
    assert len(arrays) == 3 and size == COUNT * (41 + 8 + 8)
    assert kept < 1.2 * size and peak < 1.35 * size


def ask(index, numbers, answers):
    answers.put([(index.path(number), index.label(number)) for number in numbers])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_get_the_arrays(long_list, method):
    index = read_index(long_list, root="/videos")
    size = sum(value.nbytes for value in vars(index).values() if isinstance(value, np.ndarray))
    assert len(pickle.dumps(index)) < size + 20_000, "the arrays and the 400 class names, no string a video"
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=ask, args=(index, [0, COUNT - 1], answers))
    process.start()
    assert answers.get(timeout=240) == [(index.path(0), 0), (index.path(COUNT - 1), 399)]
    process.join()


def test_order_of_a_million_videos_is_small():
    batches = iter(TrainSampler(1_000_000, 4, seed=0))
    tracemalloc.start()  # which does not see tensors
    try:
        keys = [key for _ in range(50) for key in next(batches)]
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert len({number for number, _ in keys}) == 200 and all(type(number) is int for number, _ in keys)


def test_lists_with_class_names_need_no_class_file(tmp_path):
    lines = ["# made by hand", "", "b c.mp4 riding a bike", "a.mp4,hug", 'x.mp4 y.mp4\t"clap, then wave"', "d.MKV hug"]
    (tmp_path / "list.csv").write_bytes("\ufeff".encode() + "\r\n".join([*lines, '"no suffix" E\u0301lan']).encode())
    index = read_index(tmp_path / "list.csv")
    assert index.classes == ["clap, then wave", "hug", "riding a bike", "\u00c9lan"] and not index.numbered
    found = [(index.path(i).removeprefix(f"{tmp_path}/"), index.classes[index.label(i)]) for i in range(len(index))]
    assert found == [
        ("b c.mp4", "riding a bike"), ("a.mp4", "hug"), ("x.mp4 y.mp4", "clap, then wave"), ("d.MKV", "hug"),
        ("no suffix", "\u00c9lan"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", "a.mp4,hug"], r'list.csv:1: "path,label" looks like a header: remove this line'),
        (["video label", "a.mp4 0"], r'list.csv:1: "video label" looks like a header'),
        (["a.mp4 hug", "b.mp4 3"], "list.csv:2: the label 3, but the lines before have class names"),
        (["a.mp4 hug", "b.mp4"], "list.csv:2: no label, but the lines before"),
        (["a.mp4 0", "b.mp4 hug"], "list.csv:2: .*neither a class number"),
        (["a.mp4 hug", "b.mp4,hug,run"], 'list.csv:2: label "hug,run" has a comma or a tab'),
        (["a.mp4 hug\trun"], "list.csv:1: label .* has a comma or a tab"),
        (["a.mp4 hug", "b.mp4 Hug"], 'list.csv:2: class "Hug" differs from "hug" in line 1 only in capitals'),
        (["a.mp4 hug", "b hug"], "list.csv:2: 'b hug': cannot tell where the path ends"),
        (["a.mp4 0", "b.mp4 hug 3"], "list.csv:2: .*more than one label after the path"),
        (["a.mp4 -1"], "list.csv:1: .*neither a class number"),
        (["a.mp4 1.0"], "list.csv:1: .*neither a class number"),
        (["0,a.mp4,1.0"], "list.csv:1: .*neither a class number"),
    ],
)
def test_lists_with_class_names_name_the_line(tmp_path, lines, message):
    (tmp_path / "list.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        read_index(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.mp4 hugg", 'unknown class "hugg"; did you mean "hug"? Classes come from '),
        ("c.mp4,Hug", 'unknown class "Hug"; it differs from "hug" only in capitals. Classes come from '),
        ("c d.mp4 riding bike", 'unknown class "riding bike"; did you mean "riding a bike"? Classes come from '),
        ('"c d",xyz', 'unknown class "xyz". Classes come from '),
    ],
)
def test_an_unknown_class_is_answered_with_the_nearest(tmp_path, line, message):
    (tmp_path / "train.csv").write_text(f"a.mp4 hug\nb.mp4 riding a bike\n{line}\n")
    (tmp_path / "classes.txt").write_text("hug\nriding a bike\n")
    with pytest.raises(UserError) as error:
        read_index(tmp_path / "train.csv", classes_file=str(tmp_path / "classes.txt"))
    assert str(error.value) == f"{tmp_path}/train.csv:3: {message}{tmp_path}/classes.txt"


def test_a_header_over_known_classes_is_named(tmp_path):
    (tmp_path / "classes.txt").write_text("hug\nrun\n")
    (tmp_path / "list.csv").write_text("path,class\na.mp4,hug\n")
    with pytest.raises(UserError, match='list.csv:1: "path,class" looks like a header'):
        read_index(tmp_path / "list.csv", classes_file=str(tmp_path / "classes.txt"))


def test_labels_from_one_are_told_with_class_names(tmp_path):
    (tmp_path / "classes.txt").write_text("hug\nrun\n")
    (tmp_path / "list.csv").write_text("a.mp4 1\nb.mp4 2\n")
    with pytest.raises(UserError, match="list.csv:2: label 2 is not below .*, 2: labels seem to begin at 1"):
        read_index(tmp_path / "list.csv", classes_file=str(tmp_path / "classes.txt"))
    (tmp_path / "list.csv").write_text("a.mp4 0\nb.mp4 2\n")
    with pytest.raises(UserError, match="list.csv:2: label 2 is not below .*, 2; classes come from .*classes.txt"):
        read_index(tmp_path / "list.csv", classes_file=str(tmp_path / "classes.txt"))
