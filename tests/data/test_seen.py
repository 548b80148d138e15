"""What weights record of the videos that they were trained on."""

from __future__ import annotations

import shutil

from octvideo.data import VideoIndex, seen
from octvideo.data.index import read_index
from octvideo.data.seen import count_seen, hash_video, merge_seen, seen_in


def test_copy_is_recognised(video_folder, tmp_path):
    index = read_index(video_folder / "train")
    record = seen_in(index)
    assert len(record["videos"]) == 8 and record["lists"] == []
    copies = [shutil.copy(index.path(number), tmp_path / f"{number}.mp4") for number in (0, 5)]
    (tmp_path / "other.mp4").write_bytes(open(copies[0], "rb").read() + b"\0")
    others = VideoIndex([*copies, str(tmp_path / "other.mp4")], [0, 1, 1])
    assert count_seen(record, others) == 2
    assert count_seen(None, others) == count_seen({}, others) == 0


def test_hash_covers_both_ends(tmp_path):
    content = bytearray(300_000)
    path = tmp_path / "a"
    hashes = set()
    for place in (None, 0, 65_000, 299_999):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 1
        path.write_bytes(changed)
        hashes.add(hash_video(str(path)))
    path.write_bytes(content[:-1])
    assert len(hashes | {hash_video(str(path))}) == 5
    assert hash_video(str(tmp_path / "missing")) == ""


def test_large_sets_are_recorded_as_lists(video_folder, monkeypatch):
    index = read_index(video_folder / "train")
    monkeypatch.setattr(seen, "_MAX_VIDEOS", 7)
    assert seen_in(index) == {"videos": [], "lists": [{"count": 8, "sha256": index.fingerprint()}]}


def test_records_are_merged():
    one = {"videos": ["b"], "lists": [{"count": 9, "sha256": "x"}]}
    assert merge_seen(None, one, {"videos": ["a", "b"], "lists": []}) == {"videos": ["a", "b"], "lists": one["lists"]}
    assert merge_seen(one, one) == one and merge_seen() == {"videos": [], "lists": []}
