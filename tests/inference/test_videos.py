from __future__ import annotations

from pathlib import Path

import pytest

from octvideo.errors import UserError
from octvideo.inference.videos import Video, find_videos, is_single, output_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with empty files in two folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.MP4", "a/c.avi", "a/notes.txt", "a/deep/d.mp4", "z.webm", "clips/x[1].mp4", "clips/x1.mp4"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def _names(argument: str, without: Path | None = None) -> list[str]:
    return [video.name for video in find_videos(argument, without)]


def test_folders_are_searched_and_sorted(folder: Path) -> None:
    told: list[str] = []
    assert [str(video.place) for video in find_videos("a", say=told.append)] == ["c.avi", "deep/d.mp4"]
    assert told == ["a: passed over: 1 file of another kind"]
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="^empty: no video files in this folder"):
        find_videos("empty")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.mp4", None),
        ("*.M?4", ["b.MP4"]),
        ("a/*", ["a/c.avi", "a/deep/d.mp4"]),
        ("**/d*", ["a/deep/d.mp4"]),
        ("**", ["a/c.avi", "a/deep/d.mp4", "b.MP4", "clips/x1.mp4", "clips/x[1].mp4", "z.webm"]),
        ("clips/x[1].mp4", ["clips/x[1].mp4"]),
        ("clips/[x]1.mp4", ["clips/x1.mp4"]),
    ],
)
def test_globs_find_videos_and_folders(folder: Path, pattern: str, names: list[str] | None) -> None:
    if names is not None:
        assert _names(pattern) == names
        return
    with pytest.raises(UserError, match="no video file matches this glob"):
        find_videos(pattern)


def test_results_are_left_out(folder: Path) -> None:
    for argument in (".", "**"):
        assert "z.webm" in _names(argument, Path("a")) and not any(
            "c.avi" in name for name in _names(argument, Path("a"))
        )


def test_existing_file_is_no_glob(folder: Path) -> None:
    assert is_single("clips/x[1].mp4") and not is_single("clips/[x]1.mp4") and not is_single("clips")
    assert is_single("http://host/a*.mp4") and is_single("missing.mp4")


def test_outputs_keep_subfolders_and_suffixes(folder: Path) -> None:
    videos = [*find_videos("a/**/*.mp4"), *find_videos("http://host/x/b.mp4?key=1"), *find_videos("b.MP4")]
    assert output_files(videos, Path("out")) == [
        Path("out/deep/d.mp4"),
        Path("out/b.mp4.mp4"),
        Path("out/b.MP4.mp4"),
    ]


def test_outputs_overwrite_nothing(folder: Path) -> None:
    with pytest.raises(UserError, match="overwrite the input videos"):
        output_files(find_videos("clips/x1.mp4"), Path("clips"))
    videos = [Video("one/a.mp4", Path("a.mp4")), Video("two/a.mp4", Path("a.mp4"))]
    with pytest.raises(UserError, match="one/a.mp4 and two/a.mp4 would both become out/a.mp4.mp4"):
        output_files(videos, Path("out"))
