"""A user's own videos: class folders, lists, tables, and the first mistakes with each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from octvideo.data.collection import check_classes, classes_in, read_clips
from octvideo.errors import UserError


def _error(source, **options) -> str:
    with pytest.raises(UserError) as caught:
        clips = read_clips(source, **options)
        check_classes(classes_in(clips), source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(video_folder, tmp_path) -> Path:
    """Two classes of four videos, to change."""
    return Path(shutil.copytree(video_folder / "train", tmp_path / "clips"))


def test_class_folders(folder):
    clips = read_clips(folder)
    assert classes_in(clips) == {"down": 4, "right": 4}
    assert clips[0] == (str(folder / "down" / "video 0.mp4"), "down", "")
    check_classes(classes_in(clips), folder)


def test_list_with_names_or_numbers(folder, tmp_path):
    names = tmp_path / "names.csv"
    names.write_text('clips/down/video 0.mp4,down\n"clips/right/video 1.mp4",right\n')
    assert [clip.label for clip in read_clips(names)] == ["down", "right"]
    assert read_clips(names)[1].path == str(folder / "right" / "video 1.mp4")
    numbers = folder / "numbers.txt"
    numbers.write_text("down/video 0.mp4 0\nright/video 0.mp4 1\n")
    assert [clip.label for clip in read_clips(numbers)] == ["0", "1"]
    assert read_clips(numbers)[0].path == str(folder / "down" / "video 0.mp4")


def test_table_with_groups(folder, tmp_path):
    (tmp_path / "labels").mkdir()
    table = tmp_path / "labels" / "table.csv"
    table.write_text("frames,path,label,group\n24,clips/down/video 0.mp4,down,a\n24,clips/right/video 0.mp4,right,b\n")
    found = read_clips(table, group_by="group")  # paths are relative to the folder above
    assert found == [
        (str(folder / "down" / "video 0.mp4"), "down", "a"),
        (str(folder / "right" / "video 0.mp4"), "right", "b"),
    ]
    assert read_clips(table)[0].group == ""
    assert read_clips(table, root=str(tmp_path / "x"))[0].path == str(tmp_path / "x/clips/down/video 0.mp4")


def test_groups_by_pattern(folder):
    assert {clip.group for clip in read_clips(folder, group_by=r"(\d)\.mp4")} == {"0", "1", "2", "3"}
    assert {clip.group for clip in read_clips(folder, group_by="video")} == {"video"}
    assert "it finds nothing in the name of" in _error(folder, group_by="person")
    assert "neither a column nor a regular expression" in _error(folder, group_by="(")


def test_empty_folder_is_refused(tmp_path):
    assert "no videos or images in class folders" in _error(tmp_path)
    assert "no such list file or folder" in _error(tmp_path / "missing")


def test_videos_without_class_folders_are_refused(folder):
    assert "its 4 videos are not in class folders (video 0.mp4 for one): make one folder per class" in _error(
        folder / "down"
    )


def test_images_are_refused(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "img_00001.jpg")
    assert "it has images, such as" in _error(tmp_path) and "no videos" in _error(tmp_path)


def test_class_with_one_clip_is_refused(folder):
    (folder / "rigth").mkdir()
    (folder / "right" / "video 0.mp4").rename(folder / "rigth" / "video 0.mp4")
    assert "the class 'rigth' has one clip: 2 are needed" in _error(folder)
    assert 'did you mean "right"?' in _error(folder)
    check_classes(classes_in(read_clips(folder)), folder, least=1)


def test_one_class_is_refused(folder):
    shutil.rmtree(folder / "right")
    assert "only one class ('down')" in _error(folder)


def test_validation_needs_known_classes(folder):
    counts = classes_in(read_clips(folder))
    with pytest.raises(UserError, match=r"the class 'right' is not one that is trained; did you mean \"rigth\"\?"):
        check_classes(counts, folder, known=["down", "rigth"])
    check_classes({"down": 1}, folder, known=["down", "right"])


def test_classes_that_differ_in_capitals_are_refused(folder, tmp_path):
    shutil.copytree(folder / "down", folder / "Down")
    assert "differ only in capitals" in _error(folder)
    (tmp_path / "table.csv").write_text("path,label\na.mp4,Hug\nb.mp4,hug\n")
    assert "differ only in capitals" in _error(tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,what\na.mp4,hug\n", "looks like a header: remove this line"),
        ("path,label\na.mp4,hug,3\n", "table.csv:2: 3 fields, but the first line has 2"),
        ("path,label\na.mp4,\n", "table.csv:2: no label in this line"),
        ("path,label\n", "no rows below the header"),
        ("a.mp4\nb.mp4\n", "it has no labels"),
        ("path,label\na.mp4,\xff\n", "not UTF-8"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, text, message):
    (tmp_path / "table.csv").write_bytes(text.encode("latin-1"))
    assert message in _error(tmp_path / "table.csv")
