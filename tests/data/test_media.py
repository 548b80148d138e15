"""Suffixes of videos and images, and the walk over folders."""

from collections import Counter
from pathlib import Path

import pytest

from octvideo.data.media import is_image, is_media, is_video, passed_over_text, scan_folder
from octvideo.errors import UserError


@pytest.mark.parametrize("name", ["a.mp4", "A.MKV", "a.b.ts", "a.gif", "a.m2ts", "a.ogv"])
def test_video_suffixes(name):
    assert is_video(name) and is_media(name) and not is_image(name)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.tif"])
def test_image_suffixes(name):
    assert is_image(name) and is_media(name) and not is_video(name)


def test_scan_counts_what_it_passes_over(tmp_path: Path):
    for name in (
        "b/2.mp4",
        "b/1.MOV",
        "a.avi",
        "b/notes.txt",
        "._a.avi",
        ".git/x.mp4",
        "__MACOSX/y.mp4",
        "@eaDir/z.mp4",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "circle").symlink_to(tmp_path)
    passed_over: Counter[str] = Counter()
    assert list(scan_folder(tmp_path, passed_over=passed_over)) == ["a.avi", "b/1.MOV", "b/2.mp4"]
    assert passed_over == {
        "hidden or system folder": 3,
        "hidden file": 1,
        "file of another kind": 1,
        "link to a folder above it": 1,
    }
    assert passed_over_text(passed_over) == (
        "passed over: 1 file of another kind, 1 hidden file, 3 hidden or system folders, 1 link to a folder above it"
    )
    assert passed_over_text(Counter()) == ""


def test_scan_follows_links(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.mp4").touch()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "link").symlink_to(tmp_path / "elsewhere")
    assert list(scan_folder(tmp_path / "videos")) == ["link/a.mp4"]


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="absent: cannot be listed"):
        list(scan_folder(tmp_path / "absent"))
